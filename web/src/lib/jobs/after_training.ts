// The services that what follows a training calls, loaded with it.
import { createClient } from "@connectrpc/connect";
import { SampleService } from "@/gen/reeltune/catalog/v1/sample_service_pb";
import { PostTrainingService } from "@/gen/reeltune/scheduler/v1/post_training_service_pb";
import { transport } from "@/lib/clients";

export const postTraining = createClient(PostTrainingService, transport);
export const samples = createClient(SampleService, transport);

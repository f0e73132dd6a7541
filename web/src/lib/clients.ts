// The services, as this page calls them: gRPC-Web to the edge that served it.
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ClipService } from "@/gen/reeltune/catalog/v1/clip_service_pb";
import { DatasetService } from "@/gen/reeltune/catalog/v1/dataset_service_pb";
import { ImportService } from "@/gen/reeltune/catalog/v1/import_service_pb";
import { ModelService } from "@/gen/reeltune/catalog/v1/model_service_pb";
import { UploadBatchService } from "@/gen/reeltune/catalog/v1/upload_batch_service_pb";
import { UploadService } from "@/gen/reeltune/catalog/v1/upload_service_pb";
import { VersionService } from "@/gen/reeltune/catalog/v1/version_service_pb";
import { EstimateService } from "@/gen/reeltune/scheduler/v1/estimate_service_pb";
import { PresetService } from "@/gen/reeltune/scheduler/v1/preset_service_pb";
import { TrainingService } from "@/gen/reeltune/scheduler/v1/training_service_pb";
import { InferenceService } from "@/gen/reeltune/trainer/v1/inference_service_pb";
import { Session, withToken } from "./session";

const baseUrl = typeof location === "undefined" ? "" : location.origin;
const options = { baseUrl, useBinaryFormat: true };

// A reload must not cut the exchange of the refresh token, which works once.
const lasting: typeof fetch = (input, init) => fetch(input, { ...init, keepalive: true });
const door = { toLogin: () => location.assign("/app/login"), reload: () => location.reload() };

export const session = new Session(createGrpcWebTransport({ ...options, fetch: lasting }), door);
if (typeof window !== "undefined") {
  addEventListener("storage", () => session.look());
  // A page that the browser had put aside comes back as it was.
  addEventListener(
    "pageshow",
    (event) => event.persisted && (session.state.kind === "left" ? door.reload() : session.look()),
  );
}
/** For the services that only some pages call, which their own parts make a client of. */
export const transport = createGrpcWebTransport({ ...options, interceptors: [withToken(session)] });

export const datasets = createClient(DatasetService, transport);
export const clips = createClient(ClipService, transport);
export const uploads = createClient(UploadService, transport);
export const uploadBatches = createClient(UploadBatchService, transport);
export const versions = createClient(VersionService, transport);
export const models = createClient(ModelService, transport);
export const imports = createClient(ImportService, transport);
export const training = createClient(TrainingService, transport);
export const inference = createClient(InferenceService, transport);
export const estimates = createClient(EstimateService, transport);
export const presets = createClient(PresetService, transport);

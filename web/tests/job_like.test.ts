import {
  clone,
  create,
  type DescField,
  type DescMessage,
  equals,
  fromJson,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import {
  type CreateTrainingJobRequest,
  CreateTrainingJobRequestSchema,
} from "@/gen/reeltune/scheduler/v1/training_service_pb";
import { carriedBy, draftLike, requestOf, without } from "@/lib/jobs/draft";

/** Park and Miller's generator: the same numbers in each run. */
function dice(seed: number) {
  let state = seed;
  return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
}
type Dice = () => number;
type Open = Record<string, unknown>;

function scalar(type: ScalarType, roll: Dice): unknown {
  const whole = 1 + Math.floor(roll() * 1000);
  if (type === ScalarType.STRING) return `text-${whole}`;
  if (type === ScalarType.BOOL) return true;
  if (type === ScalarType.DOUBLE) return roll() / 3 + 1e-9;
  if (type === ScalarType.INT64) return 2n ** 40n + BigInt(whole);
  if (type === ScalarType.UINT32) return 2 ** 32 - whole;
  if (type === ScalarType.INT32) return whole;
  throw new Error(`this test knows no value of type ${ScalarType[type]}`);
}

/** A value that no default is, whatever is added to the contract. */
function valueOf(field: DescField, roll: Dice, share: number): unknown {
  const one = () => {
    const { enum: names, message, scalar: type } = field;
    if (names) return names.values[1 + Math.floor(roll() * (names.values.length - 1))]!.number;
    return message ? filled(message, roll, share) : scalar(type as ScalarType, roll);
  };
  if (field.fieldKind === "map") throw new Error("this test knows no maps");
  return field.fieldKind === "list" ? [one(), one()] : one();
}

/** A message of which so large a share of the fields is given. */
function filled(schema: DescMessage, roll: Dice, share = 1): Message {
  const message = create(schema);
  for (const field of schema.fields)
    if (roll() <= share) (message as unknown as Open)[field.localName] = valueOf(field, roll, share);
  return message;
}

function asked(roll: Dice, share = 1): CreateTrainingJobRequest {
  const request = filled(CreateTrainingJobRequestSchema, roll, share) as CreateTrainingJobRequest;
  // The service takes one of them.
  if (request.parameters?.optimization?.maxSteps) delete request.parameters.optimization.epochs;
  return request;
}

/** The job that shows what it was asked for, as the service makes it. */
function jobOf(request: CreateTrainingJobRequest) {
  const job = create(TrainingJobSchema, { id: "job_1", ownerId: "usr_1" });
  for (const { name, localName } of CreateTrainingJobRequestSchema.fields) {
    if (name === "request_id") continue;
    const shown = TrainingJobSchema.fields.find((field) => field.name === name);
    expect(
      shown,
      `a job does not show the ${name} that it was asked for, so that no other can be like it`,
    ).toBeDefined();
    const value = (request as unknown as Open)[localName];
    if (value !== undefined) (job as unknown as Open)[shown!.localName] = value;
  }
  return job;
}

function repeated(request: CreateTrainingJobRequest) {
  return fromJson(CreateTrainingJobRequestSchema, requestOf(draftLike(jobOf(request))));
}

function nameless(request: CreateTrainingJobRequest) {
  return { ...clone(CreateTrainingJobRequestSchema, request), name: "", requestId: "" };
}

test("a job like another asks for all that it was asked for, its name excepted", () => {
  const request = asked(dice(7));
  expect(repeated(request)).toEqual(nameless(request));
});

test.each(Array.from({ length: 100 }, (_, index) => index + 1))("so it is whatever was left out: %i", (seed) => {
  const roll = dice(seed * 7919);
  const request = asked(roll, roll());
  expect(equals(CreateTrainingJobRequestSchema, repeated(request), nameless(request))).toBe(true);
});

test("what no field of the form shows is listed, and can be taken away one by one", () => {
  const request = fromJson(CreateTrainingJobRequestSchema, {
    modelId: "mdl_1",
    datasetId: "ds_1",
    deviceClass: "DEVICE_CLASS_CUDA",
    priority: 5,
    deviceMemoryBytes: "1024",
    parameters: {
      lora: { rank: 8, dropout: 0.1, targetGroups: ["MODULE_GROUP_LANGUAGE", "MODULE_GROUP_VISION"] },
      earlyStopping: { patience: 3, minDelta: 0.5 },
      speed: {},
    },
  });
  const draft = draftLike(jobOf(request));
  expect(draft).toMatchObject({ model: "mdl_1", dataset: "ds_1", priority: "5", deviceClass: "DEVICE_CLASS_CUDA" });
  expect(carriedBy(draft).map((one) => [one.name, one.shown])).toEqual([
    ["lora.dropout", "0.1"],
    ["lora.target_groups", "language, vision"],
    ["early_stopping", "patience 3, min delta 0.5"],
    ["speed", "with its defaults"],
    ["device_memory_bytes", "1024"],
  ]);

  const less = { ...draft, ...without(draft, ["parameters.earlyStopping"]), deviceClass: "" };
  const { parameters, ...rest } = requestOf(less);
  expect(rest).toEqual({ modelId: "mdl_1", datasetId: "ds_1", priority: 5, deviceMemoryBytes: "1024" });
  expect(parameters).toEqual({
    lora: { rank: 8, dropout: 0.1, targetGroups: ["MODULE_GROUP_LANGUAGE", "MODULE_GROUP_VISION"] },
    speed: {},
  });
});

test("only what is filled in is asked for", () => {
  expect(
    requestOf({
      name: " mine ",
      model: "mdl_1",
      "lora.rank": "8",
      "optimization.learningRate": " 1e-3 ",
      "optimization.seed": "",
      deviceCount: " 2 ",
      priority: " ",
      checkpointEverySteps: "0",
    }),
  ).toEqual({
    name: "mine",
    modelId: "mdl_1",
    deviceCount: 2,
    parameters: { lora: { rank: 8 }, optimization: { learningRate: 0.001 }, checkpointEverySteps: 0 },
  });
});

test("epochs do not count where steps are given", () => {
  const epochs = { "optimization.epochs": "3" };
  expect(requestOf({ ...epochs, "optimization.maxSteps": "4" })).toEqual({
    parameters: { optimization: { maxSteps: 4 } },
  });
  expect(requestOf({ ...epochs, "optimization.maxSteps": "0" })).toEqual({
    parameters: { optimization: { maxSteps: 0, epochs: 3 } },
  });
});

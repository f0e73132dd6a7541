// A gRPC-Web client for tests: the browser's transport (@connectrpc/connect-web over fetch) on the generated contracts.
//
// node --import ./resolve_contracts.mjs --experimental-transform-types grpc_web_client.mjs BASE_URL MODULE SERVICE RPC
//   stdin:  {"request": {…}, "headers": {…}, "limit": 3, "descriptors": "reeltune.protoset"}
//           limit: leave a stream after so many messages; descriptors: file with the error details' types
//   stdout: one line {"message": {…}} for each answer, and last {"code": 0} or {"code", "message", "details": [{"@type", …}]}
import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

const [baseUrl, module, serviceName, rpcName] = process.argv.slice(2);
const { request = {}, headers = {}, limit = Infinity, descriptors } = JSON.parse(readFileSync(0, "utf-8"));
const service = (await import(`../../gen/ts/${module}.ts`))[serviceName];
const method = service.methods.find((candidate) => candidate.name === rpcName);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const client = createClient(service, createGrpcWebTransport({ baseUrl, useBinaryFormat: true }));

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

try {
  const answer = client[method.localName](fromJson(method.input, request), { headers });
  if (method.methodKind === "unary") {
    print({ message: toJson(method.output, await answer, { registry }) });
  } else {
    let seen = 0;
    for await (const message of answer) {
      print({ message: toJson(method.output, message, { registry }) });
      if (++seen >= limit) break;
    }
  }
  print({ code: 0 });
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  const details = error.details.map(({ type, value }) => {
    const schema = registry.getMessage(type);
    return { "@type": type, ...toJson(schema, fromBinary(schema, value), { registry }) };
  });
  print({ code: error.code, message: error.rawMessage, details });
}

// Calls the sidecar from TypeScript: an answer, vectors, a stream, and a failure taken apart by type.
//
//   npm ci && buf generate && npm run build && npm start [ADDRESS [FAIL]]
//
// FAIL breaks the stream of the sidecar's built-in echo, to see a failure: cut, rate_limit, unavailable.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { DegradationSchema, PartialSchema } from "./gen/sidecar/v1/errors_pb.js";
import { FinishReason, LLMService } from "./gen/sidecar/v1/llm_pb.js";

const [address = "127.0.0.1:50051", fail] = process.argv.slice(2);

// One client for the whole program. On localhost it needs no TLS; a token goes along as a header: { headers: { authorization: "Bearer TOKEN" } }.
const sidecar = createClient(LLMService, createGrpcTransport({ baseUrl: `http://${address}` }));
const timeoutMs = 30_000; // the deadline covers all that the sidecar does: waiting, retries, fallbacks, streaming
const caller = { node: "oracle.summary", tenant: "acme" };
const request = { caller, prompt: "hello from TypeScript" };

try {
  const answer = await sidecar.generate(request, { timeoutMs });
  console.log(`generate: ${answer.text} (${answer.model}, ${answer.cost?.nanoUsd} nano-USD)`);

  const { vectors } = await sidecar.embed({ caller, inputs: ["one", "two"] }, { timeoutMs });
  console.log(`embed: ${vectors.length} vectors of ${vectors[0].values.length} numbers`);

  // The same request: change the verb, not the code.
  for await (const { event } of sidecar.stream(fail ? { ...request, providerOptions: { fail } } : request, { timeoutMs })) {
    if (event.case === "textDelta") console.log(`piece: ${event.value}`);
    if (event.case === "end") console.log(`end: ${FinishReason[event.value.finishReason]}, ${event.value.cost?.nanoUsd} nano-USD`);
  }
} catch (error) {
  explain(ConnectError.from(error));
  process.exitCode = 1;
}

// What a failure says to a program, so that nobody has to read its message.
function explain(failed: ConnectError): void {
  console.log(`failed: ${Code[failed.code]}`);
  for (const { reason, metadata } of failed.findDetails(ErrorInfoSchema)) {
    console.log(`reason: ${reason}, retryable: ${metadata.retryable}`); // a name of ErrorReason; metadata has the call's id
  }
  for (const { retryDelay } of failed.findDetails(RetryInfoSchema)) console.log(`wait: ${retryDelay?.seconds} s`);
  for (const { fieldViolations } of failed.findDetails(BadRequestSchema)) console.log(`field: ${fieldViolations[0].field}`);
  for (const { action, httpStatus } of failed.findDetails(DegradationSchema)) {
    console.log(`instead: ${action}, HTTP status ${httpStatus}`); // what the caller can do now
  }
  for (const { text, cost } of failed.findDetails(PartialSchema)) {
    console.log(`partial: ${JSON.stringify(text)}, ${cost?.nanoUsd} nano-USD`); // what had come, and what it cost
  }
}

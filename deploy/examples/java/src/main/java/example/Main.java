package example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.concurrent.TimeUnit;
import sidecar.v1.Errors.Degradation;
import sidecar.v1.Errors.Partial;
import sidecar.v1.LLMServiceGrpc;
import sidecar.v1.LLMServiceGrpc.LLMServiceBlockingStub;
import sidecar.v1.Llm.Caller;
import sidecar.v1.Llm.EmbedRequest;
import sidecar.v1.Llm.GenerateRequest;

/**
 * Calls the sidecar from Java: an answer, vectors, a stream, and a failure taken apart by type.
 *
 * <p>mvn -q compile exec:java [-Dexec.args="ADDRESS [FAIL]"]; FAIL breaks the stream of the sidecar's built-in echo, to see a failure:
 * cut, rate_limit, unavailable.
 */
public final class Main {
  public static void main(String[] arguments) throws InvalidProtocolBufferException, InterruptedException {
    String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    // One channel for the whole program. On localhost it needs no TLS; a token goes along as metadata `authorization: Bearer TOKEN`.
    ManagedChannel channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
    int status = 0;
    try {
      // The deadline covers all that the sidecar does: waiting, retries, fallbacks, streaming.
      call(LLMServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS), arguments.length > 1 ? arguments[1] : "");
    } catch (StatusRuntimeException failed) {
      explain(failed);
      status = 1;
    }
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    System.exit(status);
  }

  private static void call(LLMServiceBlockingStub sidecar, String fail) {
    Caller caller = Caller.newBuilder().setNode("oracle.summary").setTenant("acme").build();
    GenerateRequest.Builder request = GenerateRequest.newBuilder().setCaller(caller).setPrompt("hello from Java");
    var answer = sidecar.generate(request.build());
    System.out.printf("generate: %s (%s, %d nano-USD)%n", answer.getText(), answer.getModel(), answer.getCost().getNanoUsd());

    var vectors = sidecar.embed(EmbedRequest.newBuilder().setCaller(caller).addInputs("one").addInputs("two").build()).getVectorsList();
    System.out.printf("embed: %d vectors of %d numbers%n", vectors.size(), vectors.get(0).getValuesCount());

    if (!fail.isEmpty()) {
      request.setProviderOptions(Struct.newBuilder().putFields("fail", Value.newBuilder().setStringValue(fail).build()));
    }
    var events = sidecar.stream(request.build()); // the same request: change the verb, not the code
    while (events.hasNext()) {
      var event = events.next();
      switch (event.getEventCase()) {
        case TEXT_DELTA -> System.out.printf("piece: %s%n", event.getTextDelta());
        case END -> System.out.printf("end: %s, %d nano-USD%n", event.getEnd().getFinishReason(), event.getEnd().getCost().getNanoUsd());
        default -> {}
      }
    }
  }

  /** Shows what a failure says to a program, so that nobody has to read its message. */
  private static void explain(StatusRuntimeException failed) throws InvalidProtocolBufferException {
    System.out.printf("failed: %s%n", failed.getStatus().getCode());
    var status = StatusProto.fromThrowable(failed);
    for (Any detail : status == null ? java.util.List.<Any>of() : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) { // why: a name of ErrorReason; the metadata has the call's id and whether a retry may help
        ErrorInfo info = detail.unpack(ErrorInfo.class);
        System.out.printf("reason: %s, retryable: %s%n", info.getReason(), info.getMetadataMap().get("retryable"));
      } else if (detail.is(RetryInfo.class)) {
        System.out.printf("wait: %d s%n", detail.unpack(RetryInfo.class).getRetryDelay().getSeconds());
      } else if (detail.is(BadRequest.class)) {
        System.out.printf("field: %s%n", detail.unpack(BadRequest.class).getFieldViolations(0).getField());
      } else if (detail.is(Degradation.class)) { // what the caller can do instead
        Degradation instead = detail.unpack(Degradation.class);
        System.out.printf("instead: %s, HTTP status %d%n", instead.getAction(), instead.getHttpStatus());
      } else if (detail.is(Partial.class)) { // what had come, and what it cost
        Partial partial = detail.unpack(Partial.class);
        System.out.printf("partial: \"%s\", %d nano-USD%n", partial.getText(), partial.getCost().getNanoUsd());
      }
    }
  }

  private Main() {}
}

// Calls the sidecar from Go: an answer, vectors, a stream, and a failure taken apart by type.
//
//	buf generate && go run . [ADDRESS [FAIL]]
//
// FAIL breaks the stream of the sidecar's built-in echo, to see a failure: cut, rate_limit, unavailable.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	sidecar "example.com/sidecar-client/gen/sidecar/v1"
)

func main() {
	address, fail := "127.0.0.1:50051", ""
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if len(os.Args) > 2 {
		fail = os.Args[2]
	}
	// One connection for the whole program. On localhost it needs no TLS; a token goes along as metadata `authorization: Bearer TOKEN`.
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := sidecar.NewLLMServiceClient(connection)

	// The deadline covers all that the sidecar does: waiting, retries, fallbacks, streaming.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request := &sidecar.GenerateRequest{
		Caller: &sidecar.Caller{Node: "oracle.summary", Tenant: "acme"},
		Prompt: "hello from Go",
	}
	answer, err := client.Generate(ctx, request)
	if err != nil {
		explain(err)
		os.Exit(1)
	}
	fmt.Printf("generate: %s (%s, %d nano-USD)\n", answer.Text, answer.Model, answer.Cost.GetNanoUsd())

	embedded, err := client.Embed(ctx, &sidecar.EmbedRequest{Caller: request.Caller, Inputs: []string{"one", "two"}})
	if err != nil {
		explain(err)
		os.Exit(1)
	}
	fmt.Printf("embed: %d vectors of %d numbers\n", len(embedded.Vectors), len(embedded.Vectors[0].Values))

	if fail != "" {
		request.ProviderOptions, _ = structpb.NewStruct(map[string]any{"fail": fail})
	}
	if err := stream(ctx, client, request); err != nil { // the same request: change the verb, not the code
		explain(err)
		os.Exit(1)
	}
}

func stream(ctx context.Context, client sidecar.LLMServiceClient, request *sidecar.GenerateRequest) error {
	events, err := client.Stream(ctx, request)
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch kind := event.Event.(type) {
		case *sidecar.StreamEvent_TextDelta:
			fmt.Printf("piece: %s\n", kind.TextDelta)
		case *sidecar.StreamEvent_End:
			fmt.Printf("end: %s, %d nano-USD\n", kind.End.FinishReason, kind.End.Cost.GetNanoUsd())
		}
	}
}

// explain shows what a failure says to a program, so that nobody has to read its message.
func explain(err error) {
	failed := status.Convert(err)
	fmt.Printf("failed: %s\n", failed.Code())
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo: // why: a name of ErrorReason; Metadata has the call's id and whether a retry may help
			fmt.Printf("reason: %s, retryable: %s\n", detail.Reason, detail.Metadata["retryable"])
		case *errdetails.RetryInfo:
			fmt.Printf("wait: %s\n", detail.RetryDelay.AsDuration())
		case *errdetails.BadRequest:
			fmt.Printf("field: %s\n", detail.FieldViolations[0].Field)
		case *sidecar.Degradation: // what the caller can do instead
			fmt.Printf("instead: %s, HTTP status %d\n", detail.Action, detail.HttpStatus)
		case *sidecar.Partial: // what had come, and what it cost
			fmt.Printf("partial: %q, %d nano-USD\n", detail.Text, detail.Cost.GetNanoUsd())
		}
	}
}

// openai for Node, as its users use it: only the address and the key are other ones. usage: openai_node.mjs ADDRESS
import OpenAI from "openai";
import { PNG, WEATHER, listen, say } from "./speaking.mjs";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const asked = (text) => [{ role: "user", content: text }];
const tools = [{ type: "function", function: { name: "weather", description: "Tells the weather.", parameters: WEATHER } }];

const cases = {
  async text(model) {
    const reply = await client.chat.completions.create({
      model, messages: asked("Hi"), temperature: 0.5, max_completion_tokens: 77, stop: ["END"], seed: 7,
    });
    say({
      text: reply.choices[0].message.content,
      finish: reply.choices[0].finish_reason,
      tokens: [reply.usage.prompt_tokens, reply.usage.completion_tokens],
      cost: reply.sidecar.cost.nano_usd,
      id: reply._request_id,
    });
  },
  async stream(model) {
    const chunks = await client.chat.completions.create({
      model, messages: asked("Hi"), stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of chunks) {
      const piece = chunk.choices[0]?.delta.content;
      if (piece) say({ piece });
      if (chunk.usage) {
        say({ tokens: [chunk.usage.prompt_tokens, chunk.usage.completion_tokens], cost: chunk.sidecar.cost.nano_usd });
      }
    }
  },
  async tools(model) {
    const messages = asked("Weather?");
    const { message } = (await client.chat.completions.create({ model, messages, tools })).choices[0];
    say({ tools: message.tool_calls.map((call) => [call.function.name, call.function.arguments]) });
    messages.push(message);
    for (const call of message.tool_calls) messages.push({ role: "tool", tool_call_id: call.id, content: '{"sky": "grey"}' });
    say({ text: (await client.chat.completions.create({ model, messages, tools })).choices[0].message.content });
  },
  async tools_streamed(model) {
    const runner = client.chat.completions.stream({ model, messages: asked("Weather?"), tools });
    runner.on("tool_calls.function.arguments.delta", (event) => say({ piece: event.arguments_delta }));
    const { message } = (await runner.finalChatCompletion()).choices[0];
    say({ tools: message.tool_calls.map((call) => [call.function.name, call.function.arguments]) });
  },
  async image(model) {
    const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } };
    const messages = [{ role: "user", content: [{ type: "text", text: "What is it?" }, picture] }];
    say({ text: (await client.chat.completions.create({ model, messages })).choices[0].message.content });
  },
  async schema(model) {
    const schema = {
      type: "object", properties: { city: { type: "string" }, degrees: { type: "integer" } },
      required: ["city", "degrees"], additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
    const reply = await client.chat.completions.parse({ model, messages: asked("Weather?"), response_format });
    say({ found: reply.choices[0].message.parsed });
  },
  async embeddings(model) {
    const reply = await client.embeddings.create({ model, input: ["one", "two"], dimensions: 4 });
    const plain = await client.embeddings.create({ model, input: "one", dimensions: 4, encoding_format: "float" });
    say({ vectors: reply.data.map((one) => one.embedding), plain: plain.data[0].embedding, tokens: reply.usage.prompt_tokens });
  },
  async models(model) {
    const found = [];
    for await (const one of client.models.list()) found.push(one.id);
    say({ models: found, one: (await client.models.retrieve(model)).id });
  },
  async unknown_model() {
    await client.chat.completions.create({ model: "no-such-model", messages: asked("Hi") });
  },
  async wrong(model) {
    await client.chat.completions.create({ model, messages: asked("Hi"), logprobs: true });
  },
  async cancel(model) {
    const chunks = await client.chat.completions.create({ model, messages: asked("Hi"), stream: true });
    for await (const chunk of chunks) {
      if (chunk.choices[0].delta.content) {
        say({ piece: chunk.choices[0].delta.content });
        break; // the SDK closes the connection
      }
    }
  },
};
cases.overloaded = cases.text;
cases.broken = cases.stream;

await listen(cases, (error) => ({
  status: error.status ?? null,
  code: error.code ?? null,
  param: error.param ?? null,
  retry_after: error.headers?.get?.("retry-after") ?? null,
  reason: error.error?.sidecar?.reason ?? null,
  partial: error.error?.sidecar?.partial?.text ?? null,
  message: error.message,
}));

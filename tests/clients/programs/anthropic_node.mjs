// @anthropic-ai/sdk, as its users use it: only the address and the key are other ones. usage: anthropic_node.mjs ADDRESS
import Anthropic from "@anthropic-ai/sdk";
import { PNG, WEATHER, listen, say } from "./speaking.mjs";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const asked = (text) => [{ role: "user", content: text }];
const tools = [{ name: "weather", description: "Tells the weather.", input_schema: WEATHER }];
const tokens = (usage) => [usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens];

const cases = {
  async text(model) {
    const reply = await client.messages.create({
      model, max_tokens: 77, system: "Be brief.", messages: asked("Hi"), temperature: 0.5, stop_sequences: ["END"],
    });
    const text = reply.content.filter((block) => block.type === "text").map((block) => block.text).join("");
    say({ text, finish: reply.stop_reason, tokens: tokens(reply.usage), cost: reply.sidecar.cost.nano_usd, id: reply._request_id });
  },
  async stream(model) {
    const events = client.messages.stream({ model, max_tokens: 100, messages: asked("Hi") });
    events.on("text", (piece) => say({ piece }));
    say({ tokens: tokens((await events.finalMessage()).usage) });
  },
  async tools(model) {
    const messages = asked("Weather?");
    const reply = await client.messages.create({ model, max_tokens: 100, messages, tools });
    const calls = reply.content.filter((block) => block.type === "tool_use");
    say({ tools: calls.map((call) => [call.name, call.input]) });
    const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: '{"sky": "grey"}' }));
    messages.push({ role: "assistant", content: reply.content }, { role: "user", content: results });
    say({ text: (await client.messages.create({ model, max_tokens: 100, messages, tools })).content[0].text });
  },
  async tools_streamed(model) {
    const events = client.messages.stream({ model, max_tokens: 100, messages: asked("Weather?"), tools });
    events.on("inputJson", (piece) => say({ piece }));
    const message = await events.finalMessage();
    say({ tools: message.content.filter((block) => block.type === "tool_use").map((block) => [block.name, block.input]) });
  },
  async image(model) {
    const picture = { type: "image", source: { type: "base64", media_type: "image/png", data: PNG } };
    const messages = [{ role: "user", content: [picture, { type: "text", text: "What is it?" }] }];
    say({ text: (await client.messages.create({ model, max_tokens: 100, messages })).content[0].text });
  },
  async schema(model) {
    const schema = {
      type: "object", properties: { city: { type: "string" }, degrees: { type: "integer" } },
      required: ["city", "degrees"], additionalProperties: false,
    };
    const output_config = { format: { type: "json_schema", schema } };
    const reply = await client.messages.create({ model, max_tokens: 100, messages: asked("Weather?"), output_config });
    say({ found: JSON.parse(reply.content[0].text) });
  },
  async models(model) {
    const found = [];
    for await (const one of client.models.list()) found.push(one.id);
    say({ models: found, one: (await client.models.retrieve(model)).id });
  },
  async count(model) {
    say({ tokens: (await client.messages.countTokens({ model, messages: asked("Hi") })).input_tokens });
  },
  async unknown_model() {
    await client.messages.create({ model: "no-such-model", max_tokens: 10, messages: asked("Hi") });
  },
  async wrong(model) {
    await client.messages.create({ model, max_tokens: 10, messages: asked("Hi"), thinking: { type: "enabled", budget_tokens: 1024 } });
  },
  async cancel(model) {
    const events = await client.messages.create({ model, max_tokens: 100, messages: asked("Hi"), stream: true });
    for await (const event of events) {
      if (event.type === "content_block_delta") {
        say({ piece: event.delta.text });
        break; // the SDK closes the connection
      }
    }
  },
};
cases.overloaded = cases.text;
cases.broken = cases.stream;

await listen(cases, (error) => ({
  status: error.status ?? null,
  code: error.error?.error?.type ?? null,
  retry_after: error.headers?.get?.("retry-after") ?? null,
  reason: error.error?.error?.sidecar?.reason ?? null,
  partial: error.error?.error?.sidecar?.partial?.text ?? null,
  message: error.message,
}));

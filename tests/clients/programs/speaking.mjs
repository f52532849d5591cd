// As speaking.py: one case a line on standard input, what was seen as lines of JSON on standard output.
import { createInterface } from "node:readline";

export const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="; // one pixel
export const WEATHER = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};

export const say = (facts) => process.stdout.write(`${JSON.stringify(facts)}\n`);

export async function listen(cases, described) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, model] = JSON.parse(line);
    try {
      await cases[name](model);
      say({ done: name });
    } catch (error) {
      say({ error: { class: error.constructor.name, ...described(error) } });
    }
  }
}

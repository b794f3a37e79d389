// Drives tests/browser/stage.py.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const ROOT = new URL("../..", import.meta.url).pathname;

export class Stage {
  constructor() {
    this.process = spawn(process.env.PYTHON ?? `${ROOT}.venv/dev/bin/python`, ["-m", "tests.browser.stage"], {
      cwd: ROOT,
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.answers = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
  }

  async ask(name, options = {}) {
    this.process.stdin.write(`${JSON.stringify({ do: name, ...options })}\n`);
    const { value, done } = await this.answers.next();
    if (done) throw new Error("the stage has ended");
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${name}: ${answer.error}`);
    return answer;
  }

  async close() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.stdin.end();
    await ended;
  }
}

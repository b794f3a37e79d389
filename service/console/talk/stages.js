// The signs of success, in their order, each with its milliseconds. Pure: the page renders what `list` returns.

/** @typedef {"idle" | "running" | "ok" | "failed" | "skipped"} State */
/** @typedef {{name: StageName, state: State, ms: number | null}} Stage */
/** @typedef {(typeof NAMES)[number]} StageName */

export const NAMES = /** @type {const} */ (["microphone", "connecting", "upgrade", "first event", "session ready", "speech heard", "first audio"]);

export class Stages {
  /** @type {Stage[]} */ #stages = NAMES.map((name) => ({ name, state: "idle", ms: null }));
  /** @type {Map<StageName, number>} */ #begun = new Map();
  #changed;
  #now;

  /** @param {(stages: readonly Stage[]) => void} changed @param {() => number} now */
  constructor(changed, now = () => performance.now()) {
    this.#changed = changed;
    this.#now = now;
    changed(this.#stages);
  }

  get list() {
    return /** @type {readonly Stage[]} */ (this.#stages);
  }

  /** @param {StageName} name @param {number} [at] when it began */
  begin(name, at = this.#now()) {
    this.#begun.set(name, at);
    this.#set(name, "running", null);
  }

  /** Ends a stage; one that has ended stays as it is. @param {StageName} name */
  pass(name) {
    if (this.#of(name).state === "ok") return;
    this.#set(name, "ok", this.#since(name));
  }

  /** @param {StageName} name */
  skip(name) {
    if (this.#of(name).state === "idle" || this.#of(name).state === "running") this.#set(name, "skipped", null);
  }

  /** Marks as failed the stage that runs, or the one given. @param {StageName} [name] */
  fail(name) {
    const failed = name ?? this.#stages.find((stage) => stage.state === "running")?.name;
    if (failed) this.#set(failed, "failed", this.#since(failed));
    for (const stage of this.#stages) if (stage.state === "running") stage.state = "idle";
    this.#changed(this.#stages);
  }

  /** Nothing is awaited any more. */
  settle() {
    for (const stage of this.#stages) if (stage.state === "running") stage.state = "idle";
    this.#changed(this.#stages);
  }

  /** @param {StageName} name */
  #of(name) {
    return /** @type {Stage} */ (this.#stages.find((stage) => stage.name === name));
  }

  /** @param {StageName} name */
  #since(name) {
    const begun = this.#begun.get(name);
    return begun === undefined ? null : Math.max(0, this.#now() - begun);
  }

  /** @param {StageName} name @param {State} state @param {number | null} ms */
  #set(name, state, ms) {
    Object.assign(this.#of(name), { state, ms });
    this.#changed(this.#stages);
  }
}

// Asks again and again: every two seconds while the page is visible, less often while there is no answer.

const INTERVAL_MS = 2000;
const BACKOFF_MS = [2000, 4000, 8000, 15_000];

/**
 * One request chain at a time. `work` reads and shows; if it raises, the pauses grow until it succeeds again.
 */
export class Poll {
  /**
   * @param {() => Promise<void>} work
   * @param {(problem: unknown) => void} onEnd given what `work` raised, or null
   */
  constructor(work, onEnd) {
    this.work = work;
    this.onEnd = onEnd;
    /** When `work` last succeeded, by performance.now(). @type {number | null} */
    this.answeredAt = null;
    /** When it runs next; null while it runs. @type {number | null} */
    this.nextAt = null;
    this.failures = 0;
    /** When the run in progress, or the last one, began. */
    this.startedAt = 0;
    this.isRunning = false;
    this.isWanted = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    document.addEventListener("visibilitychange", () => this.now());
    window.addEventListener("online", () => this.now());
  }

  /** Runs at once, or after the run that is in progress. Does nothing while the page is hidden. */
  now() {
    clearTimeout(this.timer);
    if (this.isRunning) this.isWanted = true;
    else if (!document.hidden) void this.run();
  }

  async run() {
    this.isRunning = true;
    this.startedAt = performance.now();
    this.isWanted = false;
    this.nextAt = null;
    /** @type {unknown} */
    let raised = null;
    try {
      await this.work();
      this.answeredAt = performance.now();
      this.failures = 0;
    } catch (problem) {
      this.failures += 1;
      raised = problem;
    }
    this.isRunning = false;
    this.schedule();
    this.onEnd(raised);
  }

  schedule() {
    if (document.hidden) return;
    const pause = this.failures ? BACKOFF_MS[Math.min(this.failures, BACKOFF_MS.length) - 1] : INTERVAL_MS;
    const delay = this.isWanted ? 0 : (pause ?? INTERVAL_MS);
    this.nextAt = performance.now() + delay;
    this.timer = setTimeout(() => this.now(), delay);
  }
}

// When the user speaks, and how long an answer takes. Pure: it is given loudness and times.

const LOUD = 0.012;
const PAUSE_MS = 700;

export class Timing {
  /** When the user began to speak; 0 if not yet. */
  onset = 0;
  /** @type {number[]} */ answers = [];
  loudest = 0;
  #lastLoud = 0;
  #turnEnd = 0;

  /** @param {number} level @param {number} now @returns {boolean} whether speech begins with it */
  heard(level, now) {
    this.loudest = Math.max(this.loudest, level);
    if (level < LOUD) return false;
    const begins = !this.onset || now - this.#lastLoud > PAUSE_MS;
    if (begins) this.onset = now;
    this.#lastLoud = now;
    return begins;
  }

  /** The turn of the user is over: by speech, which ended with the last loud sound, or now. @param {number} now @param {boolean} bySpeech */
  turnEnded(now, bySpeech) {
    this.#turnEnd = bySpeech && this.#lastLoud ? this.#lastLoud : now;
  }

  /**
   * The assistant is audible.
   * @param {number} now
   * @param {boolean} hasTurns without them, the last loud sound ended the user's turn
   * @returns {number | null} the milliseconds since the user's turn; null if this is not the begin of an answer
   */
  audible(now, hasTurns) {
    const since = this.#turnEnd || (hasTurns ? 0 : this.#lastLoud);
    this.#turnEnd = this.#lastLoud = 0;
    if (!since) return null;
    this.answers.push(now - since);
    return now - since;
  }

  /** The median time of the answers. */
  get median() {
    const sorted = [...this.answers].sort((a, b) => a - b);
    return sorted[Math.floor((sorted.length - 1) / 2)] ?? null;
  }
}

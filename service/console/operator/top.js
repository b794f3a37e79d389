// The top of the page: how fresh it is, restarts of the relay, and problems of the page itself.

import { Problem } from "./api.js";
import { el, setAttribute, setText } from "./shared/dom.js";
import { age, clock } from "./format.js";

/** @typedef {import("./types.js").Overview} Overview */

/** Seconds without an answer after which what is shown is called stale. */
const STALE_SECONDS = 6;

export class Top {
  /**
   * @param {import("./poll.js").Poll} poll
   * @param {(text: string) => void} announce
   * @param {() => void} requestToken
   * @param {(problem: Problem | null) => void} onStale given why there is no answer, and null once there is one
   */
  constructor(poll, announce, requestToken, onStale) {
    this.poll = poll;
    this.announce = announce;
    this.requestToken = requestToken;
    this.onStale = onStale;
    /** @type {Problem | null} */
    this.problem = null;
    /** The version of the relay from which the page was loaded. @type {string | null} */
    this.version = null;
    this.isStale = false;
    /** Why there is no answer, while what is shown is stale. @type {Problem | null} */
    this.lack = null;
    this.freshness = /** @type {HTMLElement} */ (document.getElementById("freshness"));
    this.notice = /** @type {HTMLElement} */ (document.getElementById("notice"));
    /** The version of the relay that answers, if it is another one. */
    this.other = "";
    /** Time of day at which a restart was seen, or "". */
    this.restart = "";
    document.getElementById("token")?.addEventListener("click", requestToken);
    setInterval(() => this.draw(), 1000);
  }

  /** @param {Overview} overview */
  answered(overview) {
    const { version, upstream, uptime_seconds: uptime } = overview;
    this.version ??= version;
    const badge = document.getElementById("upstream");
    if (badge) {
      badge.hidden = false;
      setText(badge, upstream);
    }
    const about = document.getElementById("about");
    if (about)
      setText(about, `realtime-relay ${version} · up ${age(uptime)}${this.restart && ` · restarted at ${this.restart}`}`);
    this.other = version === this.version ? "" : version;
  }

  /** @param {number} at in seconds since 1970 */
  restarted(at) {
    this.restart = clock(at);
    this.announce("The relay has restarted.");
  }

  /** Shows the state of now; called each second. */
  draw() {
    const { answeredAt } = this.poll;
    const seconds = answeredAt === null ? null : (performance.now() - answeredAt) / 1000;
    // A page that was hidden has old values until the answer to its first request: only one that waits for long is stale.
    const waits = this.poll.isRunning && performance.now() - this.poll.startedAt > STALE_SECONDS * 1000;
    const isStale = (this.poll.failures > 0 || waits) && (seconds === null || seconds > STALE_SECONDS);
    const text = this.words(seconds, isStale);
    const state = this.problem ? "problem" : seconds === null ? "waiting" : "fresh";
    setAttribute(this.freshness, "data-state", isStale ? "stale" : state);
    setText(/** @type {Element} */ (this.freshness.lastElementChild), text);
    setAttribute(document.body, "data-stale", isStale ? "yes" : null);
    this.isStale = isStale;
    const lack = isStale ? this.problem : null;
    if (lack?.code !== this.lack?.code) {
      this.announce(lack ? `${lack.message} What is shown is out of date.` : "The relay answers again.");
      this.onStale(lack);
    }
    this.lack = lack;
    this.note();
  }

  /** @param {number | null} seconds @param {boolean} isStale */
  words(seconds, isStale) {
    const isRefused = this.problem !== null && this.problem.status !== 0;
    if (seconds === null) return this.problem ? (isRefused ? "refused" : "no answer") : "connecting";
    if (isStale) return `${isRefused ? "refused" : "no answer"} for ${age(seconds)}`;
    return this.problem ? "retrying" : "live";
  }

  /** Shows what the operator has to know of the page; nothing if all is well. */
  note() {
    const { problem, other } = this;
    const nodes = [];
    if (problem && (this.isStale || problem.status)) {
      const retry = this.poll.nextAt === null ? 0 : Math.max(0, Math.ceil((this.poll.nextAt - performance.now()) / 1000));
      const next = el("span", { class: "next", "aria-hidden": "true" }, retry ? `Next attempt in ${retry} s.` : "Asking now.");
      const button = problem.wantsToken
        ? el("button", { type: "button", class: "primary", click: () => this.requestToken() }, "Enter operator token")
        : el("button", { type: "button", class: "quiet", click: () => this.poll.now() }, "Ask now");
      nodes.push(
        el(
          "div",
          { class: "notice", "data-key": problem.code },
          el("p", null, el("strong", null, problem.message), " ", problem.remedy, " ", next),
          button,
        ),
      );
    }
    if (other) {
      const reload = el("button", { type: "button", class: "quiet", click: () => location.reload() }, "Reload");
      nodes.push(
        el(
          "div",
          { class: "notice", "data-key": "version" },
          el("p", null, `The relay is now version ${other}. Load the page of that version.`),
          reload,
        ),
      );
    }
    this.exchange(nodes);
  }

  /** Keeps a notice that is shown already, so that its button keeps the focus. @param {HTMLElement[]} nodes */
  exchange(nodes) {
    const held = [...this.notice.children];
    const isSame =
      held.length === nodes.length &&
      held.every((node, index) => node.getAttribute("data-key") === nodes[index]?.getAttribute("data-key"));
    if (!isSame) return this.notice.replaceChildren(...nodes);
    held.forEach((node, index) => {
      const [shown, next] = [node.querySelector(".next"), nodes[index]?.querySelector(".next")];
      if (shown && next) setText(shown, next.textContent ?? "");
    });
  }
}

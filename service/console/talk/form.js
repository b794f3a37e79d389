// The controls before a call. The token stays in its field: it is kept nowhere else.

import { byId, el } from "./elements.js";

/** @typedef {import("./events.js").Options} Options */

const MODELS = Object.freeze({ realtime: ["gpt-realtime", "gpt-realtime-2.1", "gpt-realtime-mini"], live: ["gpt-live-1", "gpt-live-1.1"] });
const SHARED_VOICES = ["alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"];
const VOICES = Object.freeze({ realtime: SHARED_VOICES, live: [...SHARED_VOICES, "beacon", "cinder", "gleam", "quartz", "stone", "willow"] });

export class Form {
  /** @type {string[]} */ #models = [];
  /** Reasons whose remedy is the operator's. @type {readonly string[]} */ operatorReasons = [];

  constructor() {
    for (const radio of document.querySelectorAll("input[name=api]")) radio.addEventListener("change", () => this.#offer(true));
    this.#offer(false);
  }

  /** @returns {Options} */
  get options() {
    return {
      api: this.#chosen("api") === "live" ? "live" : "realtime",
      model: field("model").value.trim(),
      voice: field("voice").value,
      token: field("token").value.trim(),
      isHandsFree: this.#chosen("turns") === "hands-free",
      withMicrophone: field("with-microphone").checked,
      query: field("query").value.trim(),
    };
  }

  /** Shows what the relay states to every caller: whether it wants a token, and what it serves. Without an answer nothing changes. */
  async describe() {
    try {
      const response = await fetch("console.json", { cache: "no-store" });
      if (response.ok) this.#adapt(await response.json());
    } catch {
      // The call names the cause.
    }
  }

  /** @param {{access?: string, apis?: string[], upstream?: string | null, model?: string | null, models?: string[] | null, scenarios?: string[], operator_reasons?: string[]}} relay */
  #adapt({ access, apis, upstream, model, models, scenarios, operator_reasons: operatorReasons }) {
    this.operatorReasons = operatorReasons ?? [];
    byId("token-hint").textContent = access === "tokens" ? "required; never the provider's key" : "not needed on this relay";
    if (apis && !apis.includes("live")) /** @type {HTMLInputElement} */ (document.querySelector("input[value=live]")).disabled = true;
    if (models?.length) this.#models = models;
    byId("scenarios").replaceChildren(...(scenarios ?? []).map((name) => el("option", { value: `simulate=${name}` })));
    const badge = byId("upstream");
    badge.hidden = upstream !== "simulator";
    badge.textContent = "simulator: it repeats what you say";
    this.#offer(false);
    if (model && field("model").value === MODELS.realtime[0]) field("model").value = model;
  }

  /** During a call nothing can be changed. @param {boolean} isLocked */
  lock(isLocked) {
    for (const control of document.querySelectorAll("[data-locks]")) control.toggleAttribute("disabled", isLocked);
  }

  /** Offers models and voices of the chosen interface. @param {boolean} selects */
  #offer(selects) {
    const { api } = this.options;
    byId("models").replaceChildren(...this.#offered(api).map((name) => el("option", { value: name })));
    const names = VOICES[api].map((name) => el("option", { value: name }, name));
    byId("voice").replaceChildren(el("option", { value: "" }, "Default"), ...names);
    if (selects) field("model").value = this.#offered(api)[0] ?? "";
  }

  /** The models that the relay allows, or those that are known. @param {"realtime" | "live"} api */
  #offered(api) {
    const isLive = api === "live";
    const allowed = this.#models.filter((name) => /live/.test(name) === isLive);
    return allowed.length ? allowed : MODELS[api];
  }

  /** @param {string} name */
  #chosen(name) {
    return /** @type {HTMLInputElement | null} */ (document.querySelector(`input[name=${name}]:checked`))?.value;
  }
}

/** @param {string} id */
function field(id) {
  return /** @type {HTMLInputElement} */ (byId(id));
}

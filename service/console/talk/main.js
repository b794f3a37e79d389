// The talk page: joins the controls, one call at a time, and the panels.

import { Call } from "./call.js";
import { EventLog } from "./eventlog.js";
import { showFailure, clearFailure } from "./failure-panel.js";
import { Form } from "./form.js";
import { Figures, Plot, showLevel } from "./signals.js";
import { showStages } from "./stage-row.js";
import { Stages } from "./stages.js";
import { Transcript } from "./transcript.js";
import { byId, setText } from "./elements.js";

/** @typedef {import("./call.js").State} State */

const STATES = Object.freeze({ starting: "Connecting", open: "Connected", ending: "Ending", ended: "Not connected" });

const form = new Form();
const log = new EventLog();
const transcript = new Transcript();
const plot = new Plot();
const figures = new Figures();
/** @type {Call | null} */
let call = null;

/** @param {State} state */
function showState(state) {
  const status = byId("status");
  status.dataset.state = state;
  setText(status, STATES[state]);
  const isIdle = state === "ended";
  form.lock(!isIdle);
  const hadFocus = document.activeElement === byId(isIdle ? "end" : "start");
  byId("start").hidden = !isIdle;
  byId("end").hidden = isIdle;
  byId("mute").hidden = state !== "open" || !form.options.isHandsFree || !form.options.withMicrophone;
  byId("push").hidden = state !== "open" || form.options.isHandsFree;
  byId("sample").toggleAttribute("disabled", state !== "open");
  for (const id of ["text", "send"]) byId(id).toggleAttribute("disabled", state !== "open" || !call?.canText);
  byId("text").setAttribute("placeholder", form.options.api === "live" ? "GPT-Live takes speech only" : "Write instead of speaking");
  if (hadFocus) byId(isIdle ? "start" : "end").focus();
  if (state === "open" && document.activeElement === byId("end") && !byId("push").hidden) byId("push").focus();
  plot.run(state === "open");
}

/** @param {Partial<import("./events.js").Options>} changes */
function start(changes = {}) {
  if (call && call.state !== "ended") return;
  clearFailure();
  transcript.clear();
  figures.clear();
  log.restart();
  setMuted(false);
  call = new Call({ ...form.options, ...changes }, {
    state: showState,
    stages: showStages,
    failure: (failure, isFatal) => showFailure(failure, isFatal, { again: () => start(changes), silent: () => start({ withMicrophone: false }) }, form.operatorReasons),
    note: (text) => transcript.note(text),
    log: (direction, event) => log.add(direction, event),
    text: (role, item, text, isWhole) => transcript.add(role, item, text, isWhole),
    interrupted: (item) => transcript.interrupted(item),
    level: (side, level) => {
      showLevel(side, level);
      plot.add(side, level);
    },
    figure: (figure, value, more) => figures.show(figure, value, more ?? null),
    mark: (kind) => plot.mark(kind),
  });
  void call.start();
}

/** @param {boolean} isMuted */
function setMuted(isMuted) {
  if (call) call.isMuted = isMuted;
  const button = byId("mute");
  button.setAttribute("aria-pressed", String(isMuted));
  setText(button, isMuted ? "Unmute" : "Mute");
}

/** @param {boolean} isPressed */
function push(isPressed) {
  byId("push").classList.toggle("pressed", isPressed);
  if (isPressed) call?.press();
  else call?.release();
}

/** Whether Space belongs to the focused element. @param {EventTarget | null} target */
function takesSpace(target) {
  return target instanceof HTMLElement && target.id !== "push" && target.matches("input, select, textarea, button, summary, a, dialog, dialog *");
}

byId("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
byId("end").addEventListener("click", () => call?.end());
byId("mute").addEventListener("click", () => setMuted(!call?.isMuted));
byId("sample").addEventListener("click", () => void call?.sample());
byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = /** @type {HTMLInputElement} */ (byId("text"));
  const text = input.value.trim();
  if (text) call?.say(text);
  input.value = "";
});

byId("push").addEventListener("pointerdown", (event) => {
  byId("push").setPointerCapture(event.pointerId);
  push(true);
});
for (const name of ["pointerup", "pointercancel", "blur"]) byId("push").addEventListener(name, () => push(false));
/** By a key: its release may go to another element, or to another window. */
let isHeld = false;
window.addEventListener("blur", () => isHeld && push((isHeld = false)));
for (const name of /** @type {const} */ (["keydown", "keyup"])) {
  document.addEventListener(name, (event) => {
    const isPush = event.code === "Space" || (event.code === "Enter" && event.target === byId("push"));
    if (!isPush || byId("push").hidden || (takesSpace(event.target) && !(name === "keyup" && isHeld))) return;
    event.preventDefault();
    if (!event.repeat) push((isHeld = name === "keydown"));
  });
}
window.addEventListener("pagehide", () => call?.end());

new Stages(showStages);
form.lock(false);
void form.describe();

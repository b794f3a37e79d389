// What a call reports to the page, and what both APIs have in common. The APIs themselves are realtime.js and live.js.

/**
 * @typedef {object} Options of a call
 * @property {"realtime" | "live"} api
 * @property {string} model
 * @property {string} voice empty for the provider's default
 * @property {string} token
 * @property {boolean} isHandsFree
 * @property {boolean} withMicrophone
 * @property {string} query more parameters of the URL
 */

/**
 * @typedef {object} Sink what an API does with the events that it reads
 * @property {(event: Record<string, unknown>) => void} send
 * @property {() => void} onFirstEvent
 * @property {() => void} onReady
 * @property {() => void} onSpeechStarted of the user
 * @property {() => void} onSpeechStopped
 * @property {() => void} onHeard the provider has received what the user says
 * @property {(item: string, base64: string) => void} onAudio
 * @property {(item: string) => void} onAudioEnd
 * @property {(role: Role, item: string, text: string, isWhole: boolean) => void} onText a piece, or the whole text
 * @property {(text: string) => void} onNote for the user
 * @property {(error: WireError) => void} onError
 * @property {() => void} onClosed the session is over in order
 */

/** @typedef {"user" | "assistant"} Role */

/**
 * @typedef {object} WireError the error object of an event, of the relay or of the provider
 * @property {string} [type]
 * @property {string | null} [code]
 * @property {string} [message]
 * @property {string} [remedy]
 * @property {"never" | "now" | "later"} [retry]
 * @property {number | null} [upstream_status]
 * @property {string | null} [upstream_code]
 * @property {string} [session_id]
 * @property {string | null} [param]
 */

/**
 * @typedef {object} Api
 * @property {string} path
 * @property {Record<string, string>} query
 * @property {{leadMs: number, maxSilenceMs: number}} buffering
 * @property {boolean} needsSilence whether audio has to be sent all the time
 * @property {boolean} canText
 * @property {() => void} opened the socket is open
 * @property {(event: any) => void} read
 * @property {(base64: string) => void} appendAudio
 * @property {() => void} press the user begins to speak: push-to-talk
 * @property {() => void} release
 * @property {(text: string) => void} say
 * @property {(item: string, playedMs: number) => void} interrupted the page stopped an answer after this time
 * @property {(item: string) => boolean} isStale whether an item was interrupted
 * @property {() => boolean} close asks for the end; returns whether an answer follows
 */

const LONG_TEXT = 2_000;
const AUDIO = /audio/;

/**
 * An event as the log keeps it: audio and long texts are replaced by their size.
 * @param {any} event
 * @returns {any}
 */
export function elide(event) {
  const isAudio = AUDIO.test(String(event?.type));
  return JSON.parse(JSON.stringify(event, (name, value) => {
    if (typeof value !== "string") return value;
    const carriesAudio = name === "audio" || (name === "delta" && isAudio && !String(event.type).includes("transcript"));
    if (carriesAudio && value) return `<${Math.floor((value.length * 3) / 4)} bytes of audio>`;
    return value.length > LONG_TEXT ? `${value.slice(0, LONG_TEXT)}… <${value.length} characters>` : value;
  }));
}

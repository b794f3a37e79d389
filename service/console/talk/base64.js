// PCM16 as base64, as the events carry it. Browsers run on little-endian machines, as the format is.

const PIECE = 0x8000;

/** @param {Int16Array} pcm @returns {string} */
export function encodePcm(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += PIECE) text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  return btoa(text);
}

/** @param {string} base64 @returns {Int16Array<ArrayBuffer>} the samples; half a sample at the end is dropped */
export function decodePcm(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length - (text.length % 2));
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = text.charCodeAt(at);
  return new Int16Array(bytes.buffer);
}

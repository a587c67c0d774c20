// Sends a Blob to S3 in parts: three at a time, each tried again when the line drops, gone on with where it stopped after a reload.

import { ask, LineDown, Refused } from "./api.js";

const AT_ONCE = 3;
const TRIES = 8;
const LONGEST_WAIT_MS = 30000;

const noted = (fingerprint) => `monai-aws-upload:${fingerprint}`;

/** Until the browser says that the line is up again, or a growing time is over. */
function pause(tries, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, Math.min(1000 * 2 ** tries, LONGEST_WAIT_MS));
    function done() {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      signal.removeEventListener("abort", stop);
      resolve();
    }
    function stop() {
      done();
      reject(new DOMException("cancelled", "AbortError"));
    }
    window.addEventListener("online", done);
    signal.addEventListener("abort", stop);
  });
}

/** Tries something again while the line is down. */
async function patiently(attempt, { signal, onWait }) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof LineDown) || signal.aborted) throw error;
      if (tries + 1 >= TRIES) throw new Refused("line_lost");
      onWait();
      await pause(tries, signal);
    }
  }
}

function put(address, blob, { signal, onSent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much of a body has gone
    const stop = () => request.abort();
    const end = (settle, value) => {
      signal.removeEventListener("abort", stop);
      settle(value);
    };
    request.open("PUT", address);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onload = () => (request.status === 200 ? end(resolve) : end(reject, new LineDown()));
    request.onerror = () => end(reject, new LineDown());
    request.onabort = () => end(reject, new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", stop);
    request.send(blob);
  });
}

/** What was begun for the same files and is still there, or something new. */
async function begin(blob, fingerprint, ways) {
  const known = localStorage.getItem(noted(fingerprint));
  if (known) {
    try {
      const begun = await patiently(() => ask("GET", `/api/uploads/${known}`, undefined, ways.signal), ways);
      if (begun.bytes === blob.size) return { ...begun, token: known };
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "no_such_upload") throw error;
    }
    localStorage.removeItem(noted(fingerprint));
  }
  const begun = await patiently(() => ask("POST", "/api/uploads", { bytes: blob.size }, ways.signal), ways);
  localStorage.setItem(noted(fingerprint), begun.token);
  return { ...begun, stored: [] };
}

async function sendParts(blob, begun, numbers, sent, ways) {
  const left = [...numbers];
  const sizeOf = (number) => Math.min(begun.part_bytes, blob.size - (number - 1) * begun.part_bytes);
  const tell = () => ways.onProgress([...sent.values()].reduce((sum, each) => sum + each, 0));
  async function work() {
    for (let number = left.shift(); number !== undefined; number = left.shift()) {
      const from = (number - 1) * begun.part_bytes;
      const part = blob.slice(from, from + sizeOf(number));
      await patiently(async () => {
        const { addresses } = await ask("POST", `/api/uploads/${begun.token}/parts`, { numbers: [number] }, ways.signal);
        await put(addresses[number], part, {
          signal: ways.signal,
          onSent: (bytes) => {
            sent.set(number, Math.min(bytes, part.size));
            tell();
          },
        });
      }, ways);
      sent.set(number, part.size);
      tell();
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

/** Sends all of it and returns the job. Ways: {signal, onProgress(bytes), onWait(), onResume()}. */
export async function send(blob, fingerprint, ways) {
  const begun = await begin(blob, fingerprint, ways);
  const numbers = Array.from({ length: Math.ceil(blob.size / begun.part_bytes) }, (_, index) => index + 1);
  const sent = new Map(begun.stored.map((number) => [number, Math.min(begun.part_bytes, blob.size - (number - 1) * begun.part_bytes)]));
  if (sent.size || begun.job) ways.onResume();
  let missing = begun.job ? [] : numbers.filter((number) => !sent.has(number));
  for (let round = 0; ; round += 1) {
    await sendParts(blob, begun, missing, sent, ways);
    try {
      const { job } = await patiently(() => ask("POST", `/api/uploads/${begun.token}/complete`, {}, ways.signal), ways);
      localStorage.removeItem(noted(fingerprint));
      return job;
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "parts_missing" || round > 2) throw error;
      missing = error.values.missing;
    }
  }
}

/** Forgets an upload, here and at S3. */
export async function forget(fingerprint) {
  const token = localStorage.getItem(noted(fingerprint));
  localStorage.removeItem(noted(fingerprint));
  if (token) await ask("DELETE", `/api/uploads/${token}`).catch(() => {});
}

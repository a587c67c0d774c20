// A Web Worker: looks at the files that were dropped and lays a zip of them out, without copying one.
//
// The zip is a Blob made of headers and of the files themselves, so the browser reads each file when its part is sent, and no more of it is
// in memory. Members are stored, not packed, and are called 000001, 000002, …: nothing of a file's name is in it. Zip64 where it is needed
// (PKWARE APPNOTE 6.3.10, 4.3 and 4.5.3).

import { crc32 } from "./crc32.js";

const LIMIT_32 = 0xffffffff;
const LIMIT_16 = 0xffff;
const DATE_1980 = 0x21;
const TOLD_EVERY_MS = 100;

/** Whether a file that begins so is DICOM: by its preamble (PS3.10), or by a first element that one without it begins with. */
export function looksLikeDicom(start) {
  if (start.length >= 132 && start[128] === 0x44 && start[129] === 0x49 && start[130] === 0x43 && start[131] === 0x4d) return true;
  // The host refuses a study with such a file by its name (dicom_headless); to leave it out here would make half a study of it.
  const group = start[0] | (start[1] << 8);
  return start.length >= 8 && (group === 0x0002 || group === 0x0008) && start[3] === 0 && start[2] < 0x20;
}

// What else may hold a part of the study: gzip, 7z, RAR, xz, bzip2. The host refuses them too (zip_nested).
const ARCHIVES = [[0x1f, 0x8b], [0x37, 0x7a, 0xbc, 0xaf], [0x52, 0x61, 0x72, 0x21], [0xfd, 0x37, 0x7a, 0x58], [0x42, 0x5a, 0x68]];
const isArchive = (start) => isZip(start) || ARCHIVES.some((magic) => magic.every((byte, at) => start[at] === byte));
const isZip = (start) => start[0] === 0x50 && start[1] === 0x4b && (start[2] === 3 || start[2] === 5) && (start[3] === 4 || start[3] === 6);

/** CRC and first bytes of a file, read once. */
async function readThrough(file) {
  let crc = 0;
  let start = new Uint8Array(0);
  const reader = file.stream().getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { crc, start };
    if (start.length < 132) start = joined(start, value.subarray(0, 132 - start.length));
    crc = crc32(value, crc);
  }
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

/** Bytes of little-endian numbers: [[value, width], …]. */
function bytesOf(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [, width]) => sum + width, 0));
  let at = 0;
  for (const [value, width] of fields) {
    let rest = value;
    for (let n = 0; n < width; n += 1) {
      bytes[at] = rest % 256;
      rest = Math.floor(rest / 256);
      at += 1;
    }
  }
  return bytes;
}

const text = (string) => [...string].map((letter) => [letter.charCodeAt(0), 1]);

function localHeader(name, size, crc) {
  const large = size >= LIMIT_32;
  const shown = large ? LIMIT_32 : size;
  const extra = large ? [[0x0001, 2], [16, 2], [size, 8], [size, 8]] : [];
  return bytesOf([
    [0x04034b50, 4], [large ? 45 : 20, 2], [0, 2], [0, 2], [0, 2], [DATE_1980, 2], [crc, 4], [shown, 4], [shown, 4],
    [name.length, 2], [large ? 20 : 0, 2], ...text(name), ...extra,
  ]);
}

function centralHeader({ name, size, crc, offset }) {
  const extra = [...(size >= LIMIT_32 ? [[size, 8], [size, 8]] : []), ...(offset >= LIMIT_32 ? [[offset, 8]] : [])];
  const length = extra.length * 8;
  const shown = Math.min(size, LIMIT_32);
  return bytesOf([
    [0x02014b50, 4], [length ? 45 : 20, 2], [length ? 45 : 20, 2], [0, 2], [0, 2], [0, 2], [DATE_1980, 2], [crc, 4], [shown, 4], [shown, 4],
    [name.length, 2], [length ? length + 4 : 0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [Math.min(offset, LIMIT_32), 4],
    ...text(name), ...(length ? [[0x0001, 2], [length, 2], ...extra] : []),
  ]);
}

function ending(count, size, offset) {
  const large = count >= LIMIT_16 || size >= LIMIT_32 || offset >= LIMIT_32;
  const zip64 = [
    [0x06064b50, 4], [44, 8], [45, 2], [45, 2], [0, 4], [0, 4], [count, 8], [count, 8], [size, 8], [offset, 8],
    [0x07064b50, 4], [0, 4], [offset + size, 8], [1, 4],
  ];
  const shown = Math.min(count, LIMIT_16);
  return bytesOf([
    ...(large ? zip64 : []),
    [0x06054b50, 4], [0, 2], [0, 2], [shown, 2], [shown, 2], [Math.min(size, LIMIT_32), 4], [Math.min(offset, LIMIT_32), 4], [0, 2],
  ]);
}

/** The zip of `members` ({file, crc}), as a Blob that refers to the files. */
export function zipOf(members) {
  const pieces = [];
  const central = [];
  let offset = 0;
  members.forEach(({ file, crc }, index) => {
    const name = String(index + 1).padStart(6, "0");
    const header = localHeader(name, file.size, crc);
    pieces.push(header, file);
    central.push(centralHeader({ name, size: file.size, crc, offset }));
    offset += header.length + file.size;
  });
  const size = central.reduce((sum, each) => sum + each.length, 0);
  return new Blob([...pieces, ...central, ending(members.length, size, offset)]);
}

/** A hash of what is sent, so that the same files are known again after a reload. Sizes and CRCs alone, no name and no time. */
async function fingerprintOf(members) {
  const said = members.map(({ file, crc }) => `${file.size}:${crc}`).join(",");
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(said));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Looks at all files. Tells `report` how far it is; returns what to send, or `refused` with a key of the texts. */
export async function prepare(files, report) {
  const dicom = [];
  let archives = 0;
  let told = 0;
  for (const [done, file] of files.entries()) {
    const { crc, start } = await readThrough(file);
    if (isArchive(start)) archives += 1;
    if (isZip(start) && files.length === 1) {
      return { blob: file, zip: true, instances: 0, others: 0, fingerprint: await fingerprintOf([{ file, crc }]) };
    }
    if (looksLikeDicom(start)) dicom.push({ file, crc });
    if (Date.now() - told > TOLD_EVERY_MS) {
      told = Date.now();
      report({ done, all: files.length });
    }
  }
  if (archives) return { refused: "archive_inside" };
  if (!dicom.length) return { refused: files.length ? "no_dicom" : "nothing_chosen", all: files.length };
  return { blob: zipOf(dicom), zip: false, instances: dicom.length, others: files.length - dicom.length, fingerprint: await fingerprintOf(dicom) };
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) {
  self.onmessage = async ({ data }) => {
    try {
      self.postMessage({ ready: await prepare(data.files, (progress) => self.postMessage({ progress })) });
    } catch {
      self.postMessage({ ready: { refused: "unreadable" } });
    }
  };
}

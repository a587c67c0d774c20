// CRC-32 as a zip holds it (ISO 3309), eight bytes at a time.

const TABLES = makeTables();

function makeTables() {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let n = 0; n < 256; n += 1) {
    let value = n;
    for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    tables[0][n] = value >>> 0;
  }
  for (let n = 0; n < 256; n += 1) {
    for (let t = 1; t < 8; t += 1) {
      const before = tables[t - 1][n];
      tables[t][n] = (before >>> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

/** The CRC of `bytes` after what `crc` is of; 0 to begin with. */
export function crc32(bytes, crc = 0) {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  let value = ~crc;
  let at = 0;
  for (const end = bytes.length - 7; at < end; at += 8) {
    const low = value ^ (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24));
    value =
      t7[low & 0xff] ^ t6[(low >>> 8) & 0xff] ^ t5[(low >>> 16) & 0xff] ^ t4[low >>> 24] ^
      t3[bytes[at + 4]] ^ t2[bytes[at + 5]] ^ t1[bytes[at + 6]] ^ t0[bytes[at + 7]];
  }
  for (; at < bytes.length; at += 1) value = (value >>> 8) ^ t0[(value ^ bytes[at]) & 0xff];
  return ~value >>> 0;
}

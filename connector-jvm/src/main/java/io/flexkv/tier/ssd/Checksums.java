package io.flexkv.tier.ssd;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;

/** CRC32C as it is kept on disk. */
final class Checksums {
  private Checksums() {}

  /** Of a range. */
  static int of(MemorySegment bytes) {
    CRC32C crc = new CRC32C();
    crc.update(bytes.asByteBuffer());
    return (int) crc.getValue();
  }

  /** Of a block: the digest of its identity (8 bytes, little-endian), then its payload. */
  static int ofBlock(long identityDigest, long address, long payloadBytes) {
    CRC32C crc = new CRC32C();
    ByteBuffer digest = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);
    digest.putLong(identityDigest).flip();
    crc.update(digest);
    crc.update(MemorySegment.ofAddress(address).reinterpret(payloadBytes).asByteBuffer());
    return (int) crc.getValue();
  }
}

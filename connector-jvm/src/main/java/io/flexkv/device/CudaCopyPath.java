package io.flexkv.device;

import java.util.Locale;

/** Which call of the driver moves a slice; all move the same bytes. */
public enum CudaCopyPath {
  /** The newest that the driver has. */
  AUTO,
  /** The newer of the two batched calls; a driver that has neither is refused. */
  BATCH,
  /** {@code cuMemcpyBatchAsync_v2}, CUDA 13. */
  BATCH_V2,
  /** {@code cuMemcpyBatchAsync}, CUDA 12.8. */
  BATCH_V1,
  /** One {@code cuMemcpyHtoDAsync} or {@code cuMemcpyDtoHAsync} a copy: every driver. */
  LOOP;

  /**
   * By a value of {@code gpu_copy_path}, which names those that an operator chooses from.
   *
   * @throws IllegalArgumentException for a word that the option does not allow
   */
  public static CudaCopyPath named(String word) {
    return valueOf(word.toUpperCase(Locale.ROOT));
  }
}

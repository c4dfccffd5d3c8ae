package io.flexkv.device;

/** Which call of the driver moves a slice; all move the same bytes. */
public enum CudaCopyPath {
  /** The newest that the driver has. */
  AUTO,
  /** {@code cuMemcpyBatchAsync_v2}, CUDA 13. */
  BATCH_V2,
  /** {@code cuMemcpyBatchAsync}, CUDA 12.8. */
  BATCH_V1,
  /** One {@code cuMemcpyHtoDAsync} or {@code cuMemcpyDtoHAsync} a copy: every driver. */
  LOOP
}

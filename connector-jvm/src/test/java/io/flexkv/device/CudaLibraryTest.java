package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import java.util.Set;
import java.util.function.IntPredicate;
import java.util.stream.IntStream;
import jcuda.driver.CUresult;
import org.junit.jupiter.api.Test;

/** What the driver's answers are taken for. */
final class CudaLibraryTest {
  /** What no context survives, as the driver's header describes them. */
  private static final Set<Integer> LOST =
      Set.of(
          CUresult.CUDA_ERROR_DEINITIALIZED,
          CUresult.CUDA_ERROR_ECC_UNCORRECTABLE,
          CUresult.CUDA_ERROR_NVLINK_UNCORRECTABLE,
          CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,
          CUresult.CUDA_ERROR_LAUNCH_TIMEOUT,
          CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED,
          CUresult.CUDA_ERROR_ASSERT,
          CUresult.CUDA_ERROR_HARDWARE_STACK_ERROR,
          CUresult.CUDA_ERROR_ILLEGAL_INSTRUCTION,
          CUresult.CUDA_ERROR_MISALIGNED_ADDRESS,
          CUresult.CUDA_ERROR_INVALID_ADDRESS_SPACE,
          CUresult.CUDA_ERROR_INVALID_PC,
          CUresult.CUDA_ERROR_LAUNCH_FAILED);

  /** A call that failed for its arguments, or for want of something, and left the context whole. */
  private static final Set<Integer> OF_ONE_CALL =
      Set.of(
          CUresult.CUDA_ERROR_INVALID_VALUE,
          CUresult.CUDA_ERROR_OUT_OF_MEMORY,
          CUresult.CUDA_ERROR_INVALID_DEVICE,
          CUresult.CUDA_ERROR_INVALID_CONTEXT,
          CUresult.CUDA_ERROR_MAP_FAILED,
          CUresult.CUDA_ERROR_ALREADY_MAPPED,
          CUresult.CUDA_ERROR_INVALID_HANDLE,
          CUresult.CUDA_ERROR_NOT_FOUND,
          CUresult.CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
          CUresult.CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
          CUresult.CUDA_ERROR_NOT_PERMITTED,
          CUresult.CUDA_ERROR_NOT_SUPPORTED);

  private static List<Integer> codes(IntPredicate which) {
    return IntStream.rangeClosed(1, 1000).filter(which).boxed().toList();
  }

  /** One too many ends a sidecar that serves; one too few leaves an engine without a cache. */
  @Test
  void lost_everyCodeThatNoContextSurvives_andNoOther() {
    assertThat(codes(CudaLibrary::lost)).containsExactlyInAnyOrderElementsOf(LOST);
    assertThat(CudaLibrary.lost(CUresult.CUDA_SUCCESS)).isFalse();
  }

  /** Copies are tried again only after an error of one call: never one that lost the context. */
  @Test
  void kind_errorsOfOneCall_areOfTheCopyAndAllOthersOfTheDevice() {
    assertThat(codes(code -> CudaLibrary.kind(code) == DeviceException.Kind.COPY))
        .containsExactlyInAnyOrderElementsOf(OF_ONE_CALL)
        .doesNotContainAnyElementsOf(LOST);
    assertThat(codes(code -> CudaLibrary.kind(code) == DeviceException.Kind.GONE))
        .hasSize(1000 - OF_ONE_CALL.size());
  }

  @Test
  void refuses_shortages_doNotCount() {
    assertThat(codes(CudaLibrary::refuses))
        .containsExactly(
            CUresult.CUDA_ERROR_INVALID_VALUE,
            CUresult.CUDA_ERROR_NOT_PERMITTED,
            CUresult.CUDA_ERROR_NOT_SUPPORTED);
  }
}

/**
 * The movers: fences polled, copies submitted in slices, completions reported.
 *
 * <p>Beside them lie programs that measure and check them from within: {@code CudaCopyBench},
 * {@code CudaSelfTest}, {@code ProcessCopyBench}, and what these use ({@code Bare…}, {@code
 * Bench…}, {@code MoverDriver}, {@code StreamCopies}). They are in the jar so that any machine with
 * a GPU can run them; no class of the sidecar uses one, which a test holds.
 */
@NullMarked
package io.flexkv.transfer;

import org.jspecify.annotations.NullMarked;

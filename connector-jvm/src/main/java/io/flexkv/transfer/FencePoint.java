package io.flexkv.transfer;

/**
 * A point in the worker's stream: the record number {@code sequence} of event {@code index} of the
 * rank's {@link io.flexkv.device.FenceRing}.
 */
public record FencePoint(int index, long sequence) {}

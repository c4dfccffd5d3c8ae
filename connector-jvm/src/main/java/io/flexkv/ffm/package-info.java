/**
 * Thin bindings to what the JDK lacks of Linux: sealed memfds, mappings, Unix sockets that carry
 * file descriptors, pidfds, other processes' memory. One final class a subject; every failure is an
 * {@link io.flexkv.ffm.ErrnoException} that names the call, its arguments and errno.
 *
 * <p>No call here is marked {@code critical}: a garbage collection beside a long critical call
 * waits for it. Sizes are bytes, file descriptors plain ints.
 */
@NullMarked
package io.flexkv.ffm;

import org.jspecify.annotations.NullMarked;

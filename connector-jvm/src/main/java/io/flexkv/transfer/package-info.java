/** The movers: fences polled, copies submitted in slices, completions reported. */
@NullMarked
package io.flexkv.transfer;

import org.jspecify.annotations.NullMarked;

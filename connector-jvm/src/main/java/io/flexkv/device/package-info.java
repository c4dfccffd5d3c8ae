/** The only door to an engine's memory, one backend per kind of handle. */
@NullMarked
package io.flexkv.device;

import org.jspecify.annotations.NullMarked;

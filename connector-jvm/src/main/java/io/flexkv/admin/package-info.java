/** The control plane: health, status and requests of operators and tools. */
@NullMarked
package io.flexkv.admin;

import org.jspecify.annotations.NullMarked;

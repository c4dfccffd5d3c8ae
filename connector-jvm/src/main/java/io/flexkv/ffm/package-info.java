/** Native functions: one class a library, documented lookups, errors with number and name. */
@NullMarked
package io.flexkv.ffm;

import org.jspecify.annotations.NullMarked;

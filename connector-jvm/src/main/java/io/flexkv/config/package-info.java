/** Options, their sources and their precedence, checked when read. */
@NullMarked
package io.flexkv.config;

import org.jspecify.annotations.NullMarked;

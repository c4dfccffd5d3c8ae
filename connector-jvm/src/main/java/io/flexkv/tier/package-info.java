/** Where blocks rest outside the engine: pools of slots by medium. */
@NullMarked
package io.flexkv.tier;

import org.jspecify.annotations.NullMarked;

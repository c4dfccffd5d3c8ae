/**
 * What each tier holds, told to schedulers as KV notices: the source of vLLM's KV events. Cache
 * thread only; no I/O. See {@link io.flexkv.events.EventHub}.
 */
@NullMarked
package io.flexkv.events;

import org.jspecify.annotations.NullMarked;

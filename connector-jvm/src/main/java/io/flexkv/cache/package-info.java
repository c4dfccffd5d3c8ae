/** The cache core on its own thread: index, leases, plans, eviction. Imports only the JDK. */
@NullMarked
package io.flexkv.cache;

import org.jspecify.annotations.NullMarked;

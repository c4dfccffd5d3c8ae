/** The process: command line, start, wiring of all other packages, readiness and shutdown. */
@NullMarked
package io.flexkv.sidecar;

import org.jspecify.annotations.NullMarked;

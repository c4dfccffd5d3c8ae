/** One session a client: credentials, file descriptors, rings, epoch, liveness. */
@NullMarked
package io.flexkv.session;

import org.jspecify.annotations.NullMarked;

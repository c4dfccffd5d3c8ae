/**
 * The bytes shared with the Python side: records, rings and their layouts. Imports only the JDK.
 */
@NullMarked
package io.flexkv.protocol;

import org.jspecify.annotations.NullMarked;

package io.flexkv.config;

/**
 * Something that the user should read once, at the start.
 *
 * @param warning whether less happens than was asked for
 */
public record Note(boolean warning, String text) {}

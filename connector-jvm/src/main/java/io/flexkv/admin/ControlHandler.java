package io.flexkv.admin;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.protocol.RequestException;

/** One operation of the control plane; called on the control thread, or one of its own. */
@FunctionalInterface
public interface ControlHandler {
  /**
   * Carries it out.
   *
   * @param args the request's arguments, an object or missing
   * @return the result, an object
   */
  JsonNode handle(JsonNode args) throws RequestException;
}

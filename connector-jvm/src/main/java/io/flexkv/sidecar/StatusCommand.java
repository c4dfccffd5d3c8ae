package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.admin.ControlClient;
import io.flexkv.config.ConfigException;
import io.flexkv.config.Settings;
import io.flexkv.session.ToolSession;
import java.io.IOException;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;

/** {@code status}: joins as a tool, asks over the control plane, prints the answer as JSON. */
@Command(mixinStandardHelpOptions = true, versionProvider = FlexKv.Version.class)
final class StatusCommand implements Callable<Integer>, OptionSpecs.Configured {
  private static final int TIMEOUT_MILLIS = 2000;

  private final OptionSpecs.Given given = new OptionSpecs.Given();
  private final ObjectMapper json = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

  @Override
  public Map<String, String> given() {
    return given.given();
  }

  @Override
  public Integer call() throws Exception {
    LogSetup.silence();
    try {
      Settings settings = Settings.load(System.getenv(), given());
      try (ToolSession session = ToolSession.open(settings.socketPath(), TIMEOUT_MILLIS)) {
        System.out.println(json.writeValueAsString(ask(session)));
        return 0;
      }
    } catch (ConfigException e) {
      System.err.println("flexkv: " + e.getMessage());
      return FlexKv.EXIT_SETTINGS;
    } catch (IOException e) {
      System.err.println("flexkv: no status: " + e.getMessage());
      return 1;
    }
  }

  private JsonNode ask(ToolSession session) throws IOException {
    ObjectNode request = json.createObjectNode();
    request.put("id", 1).put("token", session.controlToken()).put("op", "status");
    request.putObject("args");
    byte[] answer =
        ControlClient.ask(
            session.controlEndpoint(), json.writeValueAsBytes(request), TIMEOUT_MILLIS);
    if (answer == null) {
      throw new IOException("no answer within " + TIMEOUT_MILLIS + " ms");
    }
    JsonNode tree = json.readTree(answer);
    if (!tree.path("ok").asBoolean()) {
      throw new IOException(tree.path("error").path("message").asText());
    }
    return tree.path("result");
  }
}

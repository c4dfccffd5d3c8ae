package io.flexkv.sidecar;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.protocol.RequestException;
import io.flexkv.tier.ssd.SsdStore;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What the control plane does with the SSD tier. The control thread only. */
final class SsdControl {
  private static final Logger LOG = LoggerFactory.getLogger(SsdControl.class);
  private static final ObjectMapper JSON = new ObjectMapper();

  private final @Nullable SsdStore store;

  SsdControl(@Nullable SsdStore store) {
    this.store = store;
  }

  /**
   * {@code ssd_reattach}: begins to open a lost directory again, empty. How it went is in {@code
   * status}: {@code attaching} while it goes on, then another {@code state} or another {@code
   * cause}.
   */
  JsonNode reattach(JsonNode args) throws RequestException {
    SsdStore disks = store;
    if (disks == null) {
      throw refused("this sidecar has no SSD tier; ssd_cache_gb and ssd_cache_dir make one");
    }
    Path wanted = path(args.path("path").asText());
    SsdStore.DirectoryStatus found = find(disks.directories(), wanted);
    if (found.state() != SsdStore.State.LOST) {
      throw refused("%s is not out, its state is %s".formatted(wanted, found.state()));
    }
    if (!found.attaching() && !disks.reattach(wanted)) {
      throw refused(
          "%s cannot be attached yet: what lay in it is still being forgotten, or accesses from before"
                  .formatted(wanted)
              + " are still under way; try again in some seconds, or restart the sidecar");
    }
    LOG.info("SSD directory {} is going to be attached again, asked by a client", wanted);
    ObjectNode answer = JSON.createObjectNode();
    answer.put("path", wanted.toString());
    return answer;
  }

  private static Path path(String text) throws RequestException {
    try {
      Path path = Path.of(text);
      if (text.isEmpty() || !path.isAbsolute()) {
        throw new RequestException("malformed", "path is '%s', not absolute".formatted(text));
      }
      return path.normalize();
    } catch (InvalidPathException e) {
      throw new RequestException("malformed", "path: " + e.getMessage());
    }
  }

  private static SsdStore.DirectoryStatus find(
      List<SsdStore.DirectoryStatus> directories, Path wanted) throws RequestException {
    for (SsdStore.DirectoryStatus directory : directories) {
      if (directory.path().equals(wanted)) {
        return directory;
      }
    }
    throw refused(
        "%s is no SSD directory in use; those are %s. One that could not be used at the start"
                .formatted(
                    wanted, directories.stream().map(SsdStore.DirectoryStatus::path).toList())
            + " takes part after a restart");
  }

  private static RequestException refused(String text) {
    return new RequestException("refused", text);
  }
}

package io.flexkv.session;

import io.flexkv.protocol.RequestException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Whose process a pid is. */
final class ProcessOwner {
  private ProcessOwner() {}

  /**
   * Checks that memory of a process may be registered: it must be the user's own.
   *
   * @throws RequestException naming both users
   */
  static void check(int pid, int ownUid) throws RequestException {
    int uid;
    try {
      uid = (Integer) Files.getAttribute(Path.of("/proc", Integer.toString(pid)), "unix:uid");
    } catch (IOException e) {
      throw new RequestException("refused", "allocation of pid %d: no such process".formatted(pid));
    }
    if (uid != ownUid) {
      throw new RequestException(
          "refused",
          "allocation of pid %d, a process of uid %d; this sidecar serves uid %d"
              .formatted(pid, uid, ownUid));
    }
  }
}

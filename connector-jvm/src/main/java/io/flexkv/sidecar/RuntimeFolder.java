package io.flexkv.sidecar;

import io.flexkv.config.ConfigException;
import io.flexkv.config.Options;
import io.flexkv.config.Settings;
import io.flexkv.ffm.Linux;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/** The folder of logs: {@code runtime_dir} or {@code /tmp/flexkv-<uid>}, for its owner alone. */
final class RuntimeFolder {
  private static final int WRITABLE_BY_OTHERS = 0022;

  private RuntimeFolder() {}

  /** Makes the folder if it is not there, and checks that nobody else can write to it. */
  static Path of(Settings settings) throws ConfigException {
    String configured = settings.text(Options.RUNTIME_DIR);
    Path folder = Path.of(configured.isEmpty() ? "/tmp/flexkv-" + Linux.uid() : configured);
    try {
      Files.createDirectories(
          folder,
          PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
      int uid = (Integer) Files.getAttribute(folder, "unix:uid", LinkOption.NOFOLLOW_LINKS);
      int mode = (Integer) Files.getAttribute(folder, "unix:mode", LinkOption.NOFOLLOW_LINKS);
      if (!Files.isDirectory(folder, LinkOption.NOFOLLOW_LINKS)
          || uid != Linux.uid()
          || (mode & WRITABLE_BY_OTHERS) != 0) {
        throw new ConfigException(
            "%s (uid %d, mode %o) is not a folder that only uid %d can write: set %s to one"
                .formatted(folder, uid, mode & 07777, Linux.uid(), Options.RUNTIME_DIR.env()));
      }
      return folder;
    } catch (IOException e) {
      throw new ConfigException("cannot make the folder %s: %s".formatted(folder, e));
    }
  }

  /** The log file: as configured, or one an address in the runtime folder. */
  static Path logFile(Settings settings) throws ConfigException {
    String configured = settings.text(Options.LOG_FILE);
    if (!configured.isEmpty()) {
      return Path.of(configured).toAbsolutePath();
    }
    byte[] address = settings.text(Options.SERVER_RECV_PORT).getBytes(StandardCharsets.UTF_8);
    try {
      byte[] digest = MessageDigest.getInstance("SHA-256").digest(address);
      return of(settings)
          .toAbsolutePath()
          .resolve("sidecar-" + HexFormat.of().formatHex(digest, 0, 4) + ".log");
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has SHA-256", e);
    }
  }
}

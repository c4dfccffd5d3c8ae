package io.flexkv.tier.ssd;

import static org.junit.jupiter.api.Assumptions.abort;

import io.flexkv.ffm.DirectFile;
import io.flexkv.ffm.ErrnoException;
import java.util.List;

class UringBlockIoTest extends BlockIoContract {
  @Override
  BlockIo open(List<DirectFile> files, IoFaults faults) {
    try {
      return UringBlockIo.open("test-ssd-ring", files, 4, 0, faults);
    } catch (ErrnoException e) {
      return abort("no io_uring here: " + e.getMessage());
    }
  }

  @Override
  int placesTakenAtOnce() {
    return 3;
  }
}

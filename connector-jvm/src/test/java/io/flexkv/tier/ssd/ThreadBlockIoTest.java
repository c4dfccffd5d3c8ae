package io.flexkv.tier.ssd;

import io.flexkv.ffm.DirectFile;
import java.util.List;

class ThreadBlockIoTest extends BlockIoContract {
  @Override
  BlockIo open(List<DirectFile> files, IoFaults faults) {
    return new ThreadBlockIo("test-ssd", files, 2, faults);
  }

  @Override
  int placesTakenAtOnce() {
    return 2;
  }
}

package io.flexkv.sidecar;

/** Try. */
public final class FlexKv {
  private FlexKv() {}

  /** Main. */
  public static void main(String[] args) {
    System.out.println("try " + args.length);
  }
}

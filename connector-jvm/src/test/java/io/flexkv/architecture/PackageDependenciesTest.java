package io.flexkv.architecture;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static java.util.Map.entry;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/**
 * Holds the packages in their order: dependencies point downwards only, and the two packages that
 * others build upon without a second thought ({@code cache}, {@code protocol}) import nothing but
 * the JDK.
 */
class PackageDependenciesTest {
  private static final String BASE = "io.flexkv.";

  /** Package to the packages of ours that it may use, itself aside. */
  private static final Map<String, Set<String>> ALLOWED =
      new TreeMap<>(
          Map.ofEntries(
              entry(
                  "sidecar",
                  Set.of(
                      "admin",
                      "session",
                      "events",
                      "cache",
                      "tier",
                      "tier.ssd",
                      "transfer",
                      "device",
                      "ffm",
                      "protocol",
                      "config")),
              entry(
                  "admin",
                  Set.of(
                      "cache",
                      "tier",
                      "tier.ssd",
                      "transfer",
                      "device",
                      "ffm",
                      "protocol",
                      "config")),
              entry(
                  "session",
                  Set.of(
                      "events",
                      "cache",
                      "tier",
                      "tier.ssd",
                      "transfer",
                      "device",
                      "ffm",
                      "protocol",
                      "config")),
              // The cache core defines ports, and transfer and tier may implement them.
              entry("transfer", Set.of("cache", "device", "ffm", "protocol", "config")),
              entry("tier", Set.of("cache", "ffm", "protocol", "config")),
              entry("tier.ssd", Set.of("ffm")),
              entry("events", Set.of("protocol")),
              entry("device", Set.of("ffm", "protocol", "config")),
              entry("cache", Set.of()),
              entry("protocol", Set.of()),
              entry("config", Set.of()),
              entry("ffm", Set.of())));

  /** Package to what it may use besides the JDK, JSpecify's annotations and {@link #ALLOWED}. */
  private static final Map<String, List<String>> FOREIGN =
      Map.of(
          "cache", List.of(),
          "protocol", List.of(),
          "events", List.of(),
          "ffm", List.of(),
          "tier.ssd", List.of(),
          "config", List.of("com.fasterxml.jackson..", "org.yaml.snakeyaml.."));

  /** Benches and self tests, and what only they use; they lie beside what they measure. */
  private static final String BENCHES =
      "io\\.flexkv\\.([a-z.]+)\\."
          + "((Bare|Bench)\\w+|\\w+Bench|CudaSelfTest|MoverDriver|StreamCopies|SyntheticDirectory)"
          + "(\\$.*)?";

  private static final JavaClasses CLASSES =
      new ClassFileImporter()
          .withImportOption(ImportOption.Predefined.DO_NOT_INCLUDE_TESTS)
          .importPackages("io.flexkv");

  @Test
  void everyPackage_hasItsPlaceInTheOrder() {
    Set<String> found = new TreeSet<>();
    for (JavaClass c : CLASSES) {
      found.add(c.getPackageName());
    }
    Set<String> known = new TreeSet<>();
    ALLOWED.keySet().forEach(p -> known.add(BASE + p));
    assertThat(found)
        .as("packages with classes; a new one needs its line in ALLOWED")
        .isNotEmpty()
        .isSubsetOf(known);
  }

  @TestFactory
  Stream<DynamicTest> dependencies_pointDownwards() {
    return ALLOWED.keySet().stream().map(p -> DynamicTest.dynamicTest(p, () -> checkOrder(p)));
  }

  @TestFactory
  Stream<DynamicTest> foreignLibraries_stayOutOf() {
    return FOREIGN.keySet().stream().map(p -> DynamicTest.dynamicTest(p, () -> checkForeign(p)));
  }

  @Test
  void benchesAndSelfTests_areUsedByNoneButThemselves() {
    assertThat(CLASSES.stream().filter(c -> c.getName().matches(BENCHES)).count())
        .as("what is named so")
        .isGreaterThan(10);
    noClasses()
        .that()
        .haveNameNotMatching(BENCHES)
        .should()
        .dependOnClassesThat()
        .haveNameMatching(BENCHES)
        .check(CLASSES);
  }

  private static void checkOrder(String name) {
    Set<String> forbidden = new TreeSet<>(ALLOWED.keySet());
    forbidden.remove(name);
    forbidden.removeAll(ALLOWED.getOrDefault(name, Set.of()));
    noClasses()
        .that()
        .resideInAPackage(BASE + name)
        .should()
        .dependOnClassesThat()
        .resideInAnyPackage(forbidden.stream().map(f -> BASE + f).toArray(String[]::new))
        .allowEmptyShould(true)
        .check(CLASSES);
  }

  private static void checkForeign(String name) {
    Stream<String> ours =
        Stream.concat(Stream.of(name), ALLOWED.getOrDefault(name, Set.of()).stream())
            .map(p -> BASE + p);
    Stream<String> jdk = Stream.of("java..", "javax..", "jdk..", "org.jspecify..");
    Stream<String> foreign = FOREIGN.getOrDefault(name, List.of()).stream();
    String[] packages = Stream.of(ours, jdk, foreign).flatMap(s -> s).toArray(String[]::new);
    classes()
        .that()
        .resideInAPackage(BASE + name)
        .should()
        .onlyDependOnClassesThat()
        .resideInAnyPackage(packages)
        .allowEmptyShould(true)
        .as("classes in " + name + " use only " + Arrays.toString(packages))
        .check(CLASSES);
  }
}

// Rules: which options govern which weight.
#include "pipeline/rules.h"

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

TEST(MatchesPattern, AsAShellDoes) {
  struct Case {
    const char* pattern;
    const char* text;
    bool matches;
  };
  const Case cases[] = {
      {"", "", true},
      {"", "a", false},
      {"a", "", false},
      {"abc", "abc", true},
      {"abc", "abd", false},
      {"abc", "abcd", false},
      {"*", "", true},
      {"*", "anything", true},
      {"a*", "a", true},
      {"a*c", "abbbc", true},
      {"a*c", "abbb", false},
      {"*b*", "abc", true},
      {"*a*b*c", "xaxbxbc", true},
      {"*ab", "aab", true},
      {"**", "x", true},
      {"a?c", "abc", true},
      {"a?c", "ac", false},
      {"?", "", false},
      {"[abc]", "b", true},
      {"[abc]", "d", false},
      {"[a-c]x", "bx", true},
      {"[!a-c]", "d", true},
      {"[!a-c]", "b", false},
      {"[^a]", "a", false},
      {"[]]", "]", true},
      {"[a-]", "-", true},
      {"l.[0-3].w", "l.2.w", true},
      {"l.[0-3].w", "l.4.w", false},
      {"l.[0-3]*", "l.31", true},
      {"layer_1*", "layer_10_w", true},
      {"A", "a", false},
      {"[0-9][0-9]", "42", true},
      {"[0-9][0-9]", "4", false},
  };
  for (const auto& [pattern, text, matches] : cases)
    EXPECT_EQ(MatchesPattern(pattern, text), matches) << pattern << " and " << text;
}

TEST(MatchesPattern, NeedsNoExponentialTime) {
  const std::string text(2000, 'a');
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += "*a";
  EXPECT_TRUE(MatchesPattern(pattern, text));
  EXPECT_FALSE(MatchesPattern(pattern + "b", text));
}

TEST(ParseRule, ReadsOptionsAndNull) {
  const auto rule = ParseRule(Rule::Kind::kOpType, "conv=nbits:6,group_size=4");
  ASSERT_TRUE(Succeeds(rule));
  EXPECT_EQ(rule->kind, Rule::Kind::kOpType);
  EXPECT_EQ(rule->pattern, "conv");
  EXPECT_FALSE(rule->leave_alone);
  EXPECT_EQ(rule->options, (OptionValues{{"nbits", "6"}, {"group_size", "4"}}));
  const auto null = ParseRule(Rule::Kind::kOpName, "layers.[0-3].*=null");
  ASSERT_TRUE(Succeeds(null));
  EXPECT_EQ(null->pattern, "layers.[0-3].*");
  EXPECT_TRUE(null->leave_alone);
  EXPECT_TRUE(null->options.empty());
  const auto path = ParseRule(Rule::Kind::kOpName, "w=lut_file:a:b=c.json");
  ASSERT_TRUE(Succeeds(path));
  EXPECT_EQ(path->options, (OptionValues{{"lut_file", "a:b=c.json"}}));
}

TEST(ParseRule, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"conv",
       "--op-type 'conv': has no '='; expected PATTERN=null, or PATTERN=option:value with "
       "more options behind commas"},
      {"=null", "has no pattern in front of '='"},
      {"conv=", "'' is not option:value"},
      {"conv=nbits", "'nbits' is not option:value"},
      {"conv=nbits:", "'nbits:' is not option:value"},
      {"conv=:4", "':4' is not option:value"},
      {"conv=nbits:4,", "'' is not option:value"},
      {"conv=NULL", "'NULL' is not option:value"},
  };
  for (const auto& [text, message] : cases) {
    const auto rule = ParseRule(Rule::Kind::kOpType, text);
    ASSERT_FALSE(rule.ok()) << text;
    EXPECT_EQ(rule.error().kind, ErrorKind::kUsage);
    EXPECT_NE(rule.error().message.find(message), std::string::npos) << rule.error().message;
  }
  const auto named = ParseRule(Rule::Kind::kOpName, "x");
  ASSERT_FALSE(named.ok());
  EXPECT_TRUE(named.error().message.starts_with("--op-name 'x': ")) << named.error().message;
}

// A linear "lin" with output "lin_out" that reads "a", a conv "c" that reads "b", and a gather "g"
// that reads "t".
PackageBuilder Mixed() {
  PackageBuilder package(7);
  package.FunctionInput("main", "x", TensorType(kHalf, {1, 256}));
  package.FunctionInput("main", "i", TensorType(DataType::kInt32, {1}));
  BlockBuilder main = package.Function("main");
  main.BlobConst("a", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 1));
  AddLinear(main, "lin_out", "a", kHalf, {16, 256});
  (*main.block().mutable_operations()->rbegin()->mutable_attributes())["name"] = StringValue("lin");
  main.BlobConst("b", kHalf, {16, 256, 1, 1}, RandomWeights(kHalf, 4096, 2));
  main.Op("conv", "c", {{"x", "x"}, {"weight", "b"}}, TensorType(kHalf, {1, 16, 1, 1}));
  main.BlobConst("t", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 3));
  main.Op("gather", "g", {{"x", "t"}, {"indices", "i"}}, TensorType(kHalf, {1, 256}));
  for (const char* output : {"lin_out", "c", "g"}) main.Output(output);
  return package;
}

// The forms of a, b and t after a run with 4 bits and these rules; "-" if left by a rule.
std::string FormsWith(const std::vector<Rule>& rules) {
  const PassRun run(Mixed(), Palettize({{"nbits", "4"}}, rules));
  if (!run.ok()) return run.error();
  std::string forms;
  for (const char* name : {"a", "b", "t"}) {
    const WeightReport& weight = run.weight(name);
    const bool left = weight.fate == WeightReport::Fate::kLeft;
    EXPECT_EQ(weight.category, left ? "left alone by a rule" : "");
    forms += left ? "-" : weight.form.substr(0, 1);
  }
  return forms;
}

TEST(Rules, WithoutAnyTheCommandsOptionsHold) { EXPECT_EQ(FormsWith({}), "444"); }

TEST(Rules, ChooseByTheTypeOfTheReader) {
  EXPECT_EQ(FormsWith({ByType("conv", {{"nbits", "2"}})}), "424");
  EXPECT_EQ(FormsWith({LeaveType("linear")}), "-44");
  EXPECT_EQ(FormsWith({LeaveType("*"), ByType("g*", {{"nbits", "8"}})}), "--8");
}

TEST(Rules, ChooseByTheNameOfTheWeightOfTheReaderOrOfItsOutput) {
  EXPECT_EQ(FormsWith({ByName("a", {{"nbits", "2"}})}), "244");
  EXPECT_EQ(FormsWith({ByName("lin", {{"nbits", "2"}})}), "244");
  EXPECT_EQ(FormsWith({ByName("lin_out", {{"nbits", "2"}})}), "244");
  EXPECT_EQ(FormsWith({ByName("[ct]", {{"nbits", "1"}})}), "411");
}

TEST(Rules, TheLastOneThatMatchesWins) {
  EXPECT_EQ(FormsWith({ByName("*", {{"nbits", "2"}}), ByName("a", {{"nbits", "8"}})}), "822");
  EXPECT_EQ(FormsWith({ByName("a", {{"nbits", "8"}}), ByName("*", {{"nbits", "2"}})}), "222");
  EXPECT_EQ(FormsWith({ByType("conv", {{"nbits", "8"}}), LeaveType("c*")}), "4-4");
}

TEST(Rules, ANameBeatsATypeWhereverItStands) {
  EXPECT_EQ(FormsWith({ByName("c", {{"nbits", "8"}}), LeaveType("conv")}), "484");
  EXPECT_EQ(FormsWith({LeaveType("conv"), ByName("c", {{"nbits", "8"}})}), "484");
  EXPECT_EQ(FormsWith({LeaveName("c"), ByType("conv", {{"nbits", "8"}})}), "4-4");
}

TEST(Rules, AddToTheCommandsOptions) {
  const PassRun run(
      Mixed(), Palettize({{"nbits", "4"}, {"group_size", "8"}},
                         {ByName("a", {{"nbits", "2"}}),
                          ByName("b", {{"group_size", "none"}, {"granularity", "per_tensor"}})}));
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.weight("a").form, "2-bit LUT for each 8 channels of axis 0");
  EXPECT_EQ(run.weight("b").form, "4-bit LUT");
  EXPECT_EQ(run.weight("t").form, "4-bit LUT for each 8 channels of axis 0");
}

TEST(Rules, MayHaveThresholdsOfTheirOwn) {
  const PassRun run(Mixed(),
                    Palettize({{"nbits", "4"}}, {ByName("a", {{"weight_threshold", "4096"}})}));
  EXPECT_TRUE(Left(run, "a", "4096 elements, weight_threshold is 4096"));
  EXPECT_TRUE(IsDone(run, "b"));
}

// A const's own name may differ from that of its value, by which weights are known everywhere: a
// rule that would do nothing is an error.
TEST(Rules, DoNotKnowAConstsOwnName) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  (*package.Function("main").block().mutable_operations(0)->mutable_attributes())["name"] =
      StringValue("layers/0/w");
  const PassRun run(package, Palettize({{"nbits", "4"}}, {LeaveName("layers/0/w")}));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {"no op or weight of this model matches"}));
}

struct BadRule {
  const char* name;
  Rule rule;
  const char* message;
  friend void PrintTo(const BadRule& rule, std::ostream* out) { *out << rule.name; }
};
class BadRules : public ::testing::TestWithParam<BadRule> {};

TEST_P(BadRules, AreRefused) {
  const PassRun run(Mixed(), Palettize({{"nbits", "4"}}, {GetParam().rule}));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {GetParam().message}));
  EXPECT_TRUE(run.wrote_nothing());
}

const BadRule kBadRules[] = {
    {"TypeWithTypo", LeaveType("covn"),
     "--op-type covn=null: no op type of this model matches 'covn'; did you mean 'conv'?"},
    {"TypeFarFromAll", LeaveType("scaled_dot_product_attention"),
     "; there are conv, gather, linear"},
    {"NameWithTypo", LeaveName("lin_oot"),
     "--op-name lin_oot=null: no op or weight of this model matches 'lin_oot'; did you mean "
     "'lin_out'?"},
    {"NameFarFromAll", ByName("something/else", {{"nbits", "2"}}),
     "--op-name something/else=nbits:2: no op or weight of this model matches 'something/else'; "
     "`cmlc info` lists"},
    {"ConstAsAType", LeaveType("const"), "--op-type const=null: a type is that of the op which"},
    {"UnknownOption", ByName("a", {{"nbit", "2"}}),
     "--op-name a=nbit:2: palettize: unknown option 'nbit', did you mean 'nbits'?"},
    {"WrongValue", ByType("conv", {{"nbits", "9"}}),
     "--op-type conv=nbits:9: palettize: nbits: expected one of"},
    {"ContradictionWithTheCommand", ByName("a", {{"mode", "unique"}}),
     "leave it out (in a rule: nbits=none)"},
};
INSTANTIATE_TEST_SUITE_P(All, BadRules, ::testing::ValuesIn(kBadRules),
                         [](const auto& rule) { return rule.param.name; });

TEST(Rules, MayTakeBackWhatTheCommandSets) {
  const PassRun run(
      LinearOf(kHalf, {16, 256}, std::vector<float>(4096, 1.0f)),
      Palettize({{"nbits", "4"}}, {ByName("y", {{"mode", "unique"}, {"nbits", "none"}})}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().form, "1-bit LUT");
}

// --- Readers that disagree ----------------------------------------------------------------------

// "w" is read by the linears "first" and "second" and by the relu "third".
PackageBuilder ThreeReaders() {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  main.BlobConst("w", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 1));
  AddLinear(main, "first", "w", kHalf, {16, 256});
  AddLinear(main, "second", "w", kHalf, {16, 256});
  main.Op("relu", "third", {{"x", "w"}}, TensorType(kHalf, {16, 256}));
  for (const char* output : {"first", "second", "third"}) main.Output(output);
  return package;
}

TEST(Rules, LeavingAloneWinsIfReadersDisagree) {
  const PassRun run(
      ThreeReaders(),
      Palettize({{"nbits", "4"}}, {LeaveType("relu"), ByName("first", {{"nbits", "2"}})}));
  EXPECT_TRUE(Left(run, "w", "--op-type relu=null"));
  ASSERT_EQ(run.diagnostics().notes.size(), 1u);
  EXPECT_EQ(run.diagnostics().notes[0],
            "palettize: 'w' is read by ops with different rules: --op-type relu=null holds");
}

TEST(Rules, TheFirstReaderWinsIfReadersDisagree) {
  const PassRun run(ThreeReaders(),
                    Palettize({{"nbits", "4"}}, {ByName("first", {{"nbits", "2"}}),
                                                 ByName("third", {{"nbits", "8"}})}));
  ASSERT_TRUE(IsDone(run, "w"));
  EXPECT_EQ(run.weight("w").form, "2-bit LUT");
  ASSERT_EQ(run.diagnostics().notes.size(), 1u);
  EXPECT_NE(run.diagnostics().notes[0].find("--op-name first=nbits:2 holds"), std::string::npos);
  const PassRun later(ThreeReaders(),
                      Palettize({{"nbits", "4"}}, {ByName("third", {{"nbits", "8"}})}));
  ASSERT_TRUE(IsDone(later, "w"));
  EXPECT_EQ(later.weight("w").form, "4-bit LUT");
  ASSERT_EQ(later.diagnostics().notes.size(), 1u);
  EXPECT_NE(later.diagnostics().notes[0].find("the options of the command hold"),
            std::string::npos);
}

TEST(Rules, ReadersUnderOneRuleDoNotDisagree) {
  const PassRun run(ThreeReaders(),
                    Palettize({{"nbits", "4"}}, {ByName("[fst]*", {{"nbits", "2"}})}));
  ASSERT_TRUE(IsDone(run, "w"));
  EXPECT_TRUE(run.diagnostics().notes.empty());
}

TEST(Rules, TheWeightsOwnNameSettlesIt) {
  const PassRun run(ThreeReaders(), Palettize({{"nbits", "4"}},
                                              {LeaveType("relu"), ByName("w", {{"nbits", "2"}})}));
  ASSERT_TRUE(IsDone(run, "w"));
  EXPECT_EQ(run.weight("w").form, "2-bit LUT");
  EXPECT_TRUE(run.diagnostics().notes.empty());
}

// --- Strict -------------------------------------------------------------------------------------

// A linear "y" with weight "weight" and bias "bias"; 300 channels of 8 values.
PackageBuilder WithBias() {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  main.BlobConst("weight", kHalf, {300, 8}, RandomWeights(kHalf, 2400, 1));
  main.BlobConst("bias", kHalf, {300}, RandomWeights(kHalf, 300, 2));
  main.Op("linear", "y", {{"x", "x"}, {"weight", "weight"}, {"bias", "bias"}},
          TensorType(kHalf, {1, 300}));
  main.Output("y");
  return package;
}

TEST(Strict, IsAnErrorIfWhatWasAskedForByNameIsLeft) {
  const PassRun run(WithBias(),
                    Palettize({{"nbits", "4"}}, {ByName("weight", {{"group_size", "32"}})}),
                    {.strict = true});
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kStrict,
                    {"palettize: --strict: 1 of the weights asked for by name would be left alone",
                     "'weight' (group_size 32 does not divide 300 channels"}));
  EXPECT_TRUE(run.wrote_nothing());
}

TEST(Strict, MeansTheWeightsOfANamedOpButNotItsBias) {
  const PassRun run(WithBias(), Palettize({{"nbits", "4"}}, {ByName("y", {{"nbits", "2"}})}),
                    {.strict = true});
  ASSERT_TRUE(IsDone(run));
  EXPECT_TRUE(run.weight().asked_for);
  EXPECT_FALSE(run.weight("bias").asked_for);
  const PassRun bias(WithBias(), Palettize({{"nbits", "4"}}, {ByName("bias", {{"nbits", "2"}})}),
                     {.strict = true});
  EXPECT_TRUE(Fails(bias.result(), ErrorKind::kStrict, {"'bias' (has shape [300])"}));
}

TEST(Strict, DoesNotMindTypesNorWhatIsToBeLeft) {
  for (const Rule& rule : {ByType("linear", {{"group_size", "32"}}), LeaveName("weight")}) {
    const PassRun run(WithBias(), Palettize({{"nbits", "4"}}, {rule}), {.strict = true});
    ASSERT_TRUE(run.ok()) << run.error();
    EXPECT_EQ(run.weight().fate, WeightReport::Fate::kLeft);
  }
}

TEST(Strict, IsNotTheDefault) {
  const PassRun run(WithBias(),
                    Palettize({{"nbits", "4"}}, {ByName("weight", {{"group_size", "32"}})}));
  EXPECT_TRUE(Left(run, "weight", "group_size 32 does not divide 300 channels"));
}

}  // namespace
}  // namespace cmlc::test

#include "ir/graph_index.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace cmlc {
namespace {

using Names = std::vector<std::pair<std::string, std::vector<std::string>>>;

Operation Op(const std::string& type, const Names& inputs,
             const std::vector<std::string>& outputs) {
  Operation op;
  op.type = type;
  for (const auto& [parameter, names] : inputs)
    for (const std::string& name : names) op.inputs[parameter].bindings.push_back({name, {}});
  for (const std::string& name : outputs)
    op.outputs.push_back({.name = name, .type = {}, .opaque = {}});
  return op;
}

// "a <- add.x[0] add.y[0]": a definition and its uses.
std::string Print(const Definition& definition) {
  std::string text = definition.op->outputs[definition.output].name + " <-";
  for (const Use& use : definition.uses)
    text += use.op == nullptr ? " output"
                              : " " + use.op->type + "." + use.parameter + "[" +
                                    std::to_string(use.position) + "]";
  return text;
}

std::vector<std::string> Print(GraphIndex& index) {
  std::vector<std::string> lines;
  for (const Definition& definition : index.definitions()) lines.push_back(Print(definition));
  return lines;
}

TEST(GraphIndex, FindsUsesInOrder) {
  Block block;
  block.operations = {Op("const", {}, {"a"}), Op("const", {}, {"unused"}),
                      Op("add", {{"x", {"a"}}, {"y", {"a"}}}, {"b"}),
                      Op("concat", {{"values", {"b", "a", "b"}}}, {"c"})};
  block.outputs = {"c", "a"};
  GraphIndex index(block);
  EXPECT_EQ(Print(index),
            (std::vector<std::string>{"a <- add.x[0] add.y[0] concat.values[1] output", "unused <-",
                                      "b <- concat.values[0] concat.values[2]", "c <- output"}));
  EXPECT_EQ(index.definitions()[2].block, &block);
  EXPECT_EQ(index.definitions()[2].index, 2u);
}

TEST(GraphIndex, TellsOutputsOfOneOperationApart) {
  Block block;
  block.operations = {Op("split", {}, {"a", "b"}), Op("relu", {{"x", {"b"}}}, {"c"})};
  GraphIndex index(block);
  EXPECT_EQ(Print(index), (std::vector<std::string>{"a <-", "b <- relu.x[0]", "c <-"}));
  const Definition* found = index.Find(&block.operations[1], "b");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->output, 1u);
}

TEST(GraphIndex, SeesThroughNestedBlocks) {
  Block inner;
  inner.operations = {Op("const", {}, {"w"}), Op("mul", {{"x", {"a"}}, {"y", {"w"}}}, {"m"})};
  inner.outputs = {"m", "a"};
  Block block;
  block.operations = {Op("const", {}, {"a"}), Op("cond", {}, {"c"})};
  block.operations[1].blocks = {inner};
  GraphIndex index(block);
  EXPECT_EQ(Print(index), (std::vector<std::string>{"a <- mul.x[0] output", "w <- mul.y[0]",
                                                    "m <- output", "c <-"}));
  EXPECT_EQ(index.definitions()[1].block, &block.operations[1].blocks[0]);
}

TEST(GraphIndex, AnInnerNameHidesAnOuterOne) {
  Block inner;
  inner.operations = {Op("const", {}, {"a"}), Op("relu", {{"x", {"a"}}}, {"r"})};
  Block block;
  block.operations = {Op("const", {}, {"a"}), Op("cond", {}, {"c"}),
                      Op("relu", {{"x", {"a"}}}, {"s"})};
  block.operations[1].blocks = {inner};
  GraphIndex index(block);
  EXPECT_EQ(index.Find(&block.operations[1].blocks[0].operations[1], "a")->block,
            &block.operations[1].blocks[0]);
  EXPECT_EQ(index.Find(&block.operations[2], "a")->block, &block);
}

TEST(GraphIndex, ABlocksInputHidesAnOuterName) {
  Block inner;
  inner.inputs.push_back({.name = "a", .type = {}, .opaque = {}});
  inner.operations = {Op("relu", {{"x", {"a"}}}, {"r"})};
  inner.outputs = {"a"};
  Block block;
  block.operations = {Op("const", {}, {"a"}), Op("while_loop", {}, {"c"})};
  block.operations[1].blocks = {inner};
  GraphIndex index(block);
  EXPECT_EQ(Print(index)[0], "a <-");
  EXPECT_EQ(index.Find(&block.operations[1].blocks[0].operations[0], "a"), nullptr);
}

TEST(GraphIndex, InnerNamesEndWithTheirBlock) {
  Block inner;
  inner.operations = {Op("const", {}, {"w"})};
  Block block;
  block.operations = {Op("cond", {}, {"c"}), Op("relu", {{"x", {"w"}}}, {"r"})};
  block.operations[0].blocks = {inner};
  block.outputs = {"w"};
  GraphIndex index(block);
  EXPECT_EQ(Print(index)[0], "w <-");
  EXPECT_EQ(index.Find(&block.operations[1], "w"), nullptr);
}

TEST(GraphIndex, AnOperationCannotReadItself) {
  Block block;
  block.operations = {Op("relu", {{"x", {"a"}}}, {"a"}), Op("relu", {{"x", {"b"}}}, {"c"}),
                      Op("const", {}, {"b"})};
  GraphIndex index(block);
  EXPECT_EQ(Print(index), (std::vector<std::string>{"a <-", "c <-", "b <-"}));
  EXPECT_EQ(index.Find(&block.operations[0], "a"), nullptr);
  EXPECT_EQ(index.Find(&block.operations[1], "b"), nullptr);
}

TEST(GraphIndex, ALaterDefinitionHidesAnEarlierOne) {
  Block block;
  block.operations = {Op("const", {}, {"a"}), Op("relu", {{"x", {"a"}}}, {"r"}),
                      Op("const", {}, {"a"}), Op("relu", {{"x", {"a"}}}, {"s"})};
  GraphIndex index(block);
  EXPECT_EQ(index.Find(&block.operations[1], "a")->index, 0u);
  EXPECT_EQ(index.Find(&block.operations[3], "a")->index, 2u);
}

TEST(GraphIndex, KnowsNothingOfNamesFromOutside) {
  Block block;
  block.operations = {Op("relu", {{"x", {"input"}}}, {"r"})};
  block.outputs = {"input"};
  GraphIndex index(block);
  EXPECT_EQ(index.Find(&block.operations[0], "input"), nullptr);
  EXPECT_EQ(index.Find(&block.operations[0], "r"), nullptr);
  EXPECT_EQ(index.Find(nullptr, "r"), nullptr);
}

}  // namespace
}  // namespace cmlc

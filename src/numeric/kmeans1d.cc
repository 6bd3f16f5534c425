// How it works, and what bites.
//
// Price per link. Node i is the gap before point i; a clustering is a path from
// node 0 to node U. Let P(lambda) be the least value of cost + lambda * links.
// Because the optimal cost E(k) is convex in k, the path found at lambda has the
// k for which E leaves the line of slope -lambda, and P(lambda) - lambda * k is
// a lower bound of E(k) at *every* lambda, found or not: each price tried gives
// a certificate for free, and the best of them is reported.
//
// One price. Let F(i) be the cheapest way to reach node i. Compare two
// candidates i > t for "the last link starts here": once i is the better start
// for some end s, it is so for all later ends. So the candidates still in the
// race form a queue, each with the first end it serves best. Node i takes its F
// from the front, then enters at the back, evicting those that it beats on their
// whole range; one search per node finds where its own range starts. That place
// moves steadily with i, so the search begins where it was last time and gallops.
//
// Choosing prices. High-rate theory (Panter and Dite) says E(k) ~ T^3 / (12 k^2)
// with T the integral of density^(1/3), and that equal shares of that integral
// go to every cluster. Both facts are used: T gives a first price, and the
// boundaries of a small copy of the problem are placed at equal shares, where a
// path costs next to nothing. The price found there is usually right
// for the full data to within a cluster or two.
//
// Ties. On a uniform grid, or wherever E is straight over a stretch of k, one
// single price is right for all those k and the path returned has whatever
// number of links the rounding likes: bisecting the price never meets k. So the
// bracket is kept as two points (links, E) of the convex curve, and the search
// tries the slope of their chord. Either the path there dips below the chord -
// then it is a new point strictly between them - or the chord is an edge of the
// curve, both ends are optimal at its slope, and an optimal path with k links is
// spliced from the two: somewhere a link of the longer path lies inside a link of
// the shorter one with the right number of links before and after it, and by the
// Monge property exchanging the tails there costs nothing. The bracket shrinks with
// every chord, hence termination.
//
// Cancellation. The cost of a link is S2 - S1^2 / S0 over differences of prefix
// sums, which loses everything if the sums are large and the link is narrow.
//   * Floating-point points are densest around zero; so the sums start there
//     and grow outwards on both sides. (An outlier of -60000 then sits in the
//     last sum only, instead of in all of them.) If all points have one sign, the
//     one nearest to zero becomes the origin.
//   * A link of one point costs exactly 0, whatever the sums say.
//   * The sums run over short blocks on top of a base held in two doubles, so a
//     stored sum is off by hardly more than its own rounding.
//   * The error left is estimated from the sums and the result. Where it is not
//     negligible against the SSE (values packed around 1 with a few elsewhere; k
//     close to U), the problem is solved again in double-double arithmetic.
//   * The SSE reported comes from the points, not from the sums.
// Errors in comparisons are harmless otherwise: the difference of two candidates
// is monotone in the end of the link, so an order decided wrongly by some epsilon
// stays wrong by no more than that epsilon.
//
// Contraction of a * b + c into fused operations does not affect correctness,
// but builds that should agree to the last bit must agree on it.

#include "numeric/kmeans1d.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <limits>

namespace cmlc::numeric {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon() / 2;

// Work in plain doubles is accepted if its estimated error and its gap are below
// this share of the SSE.
constexpr double kAcceptedError = 4e-10;

// Prices tried at most, on the small copy and on the full data.
constexpr int kMaxCoarsePasses = 10;
constexpr int kMaxPasses = 200;
// Prices interpolated at most before chords alone are used.
constexpr int kMaxInterpolations = 12;

// The small copy has this many cells per cluster, but at least kMinCells, and is
// used if the data have at least kMinShrink points per cell. From kRichShrink
// points per cell on, twice the cells cost little and spare passes later.
constexpr size_t kCellsPerCluster = 6;
constexpr size_t kMinCells = 32;
constexpr size_t kMinShrink = 2;
constexpr size_t kRichShrink = 25;
// Pieces per cell in the estimate of the density.
constexpr size_t kPiecesPerCell = 4;

// Points per block in the prefix sums.
constexpr size_t kSumBlock = 64;

// An unevaluated sum of two doubles, about 106 bits (Dekker 1971; Hida, Li,
// Bailey 2001). Only what this file needs.
struct DoubleDouble {
  double hi = 0;
  double lo = 0;
  DoubleDouble() = default;
  explicit DoubleDouble(double value) : hi(value) {}
  DoubleDouble(double high, double low) : hi(high), lo(low) {}
  explicit operator double() const { return hi; }
};

// |a| >= |b|.
inline DoubleDouble QuickTwoSum(double a, double b) {
  const double s = a + b;
  return {s, b - (s - a)};
}

inline DoubleDouble TwoSum(double a, double b) {
  const double s = a + b;
  const double t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

inline DoubleDouble TwoProduct(double a, double b) {
  const double p = a * b;
  return {p, std::fma(a, b, -p)};
}

inline DoubleDouble operator-(DoubleDouble a) { return {-a.hi, -a.lo}; }

inline DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  DoubleDouble s = TwoSum(a.hi, b.hi);
  const DoubleDouble t = TwoSum(a.lo, b.lo);
  s = QuickTwoSum(s.hi, s.lo + t.hi);
  return QuickTwoSum(s.hi, s.lo + t.lo);
}

inline DoubleDouble operator-(DoubleDouble a, DoubleDouble b) { return a + -b; }

inline DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble p = TwoProduct(a.hi, b.hi);
  return QuickTwoSum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

inline DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
  const double q0 = a.hi / b.hi;
  const DoubleDouble r = a - b * DoubleDouble(q0);
  const double q1 = r.hi / b.hi;
  const DoubleDouble rest = r - b * DoubleDouble(q1);
  const DoubleDouble q = QuickTwoSum(q0, q1);
  return q + DoubleDouble(rest.hi / b.hi);
}

inline bool operator<(DoubleDouble a, DoubleDouble b) {
  return a.hi < b.hi || (a.hi == b.hi && a.lo < b.lo);
}

// Relative size of what counts as a tie between path values.
inline double TieTolerance(double) { return 1e-13; }
inline double TieTolerance(DoubleDouble) { return 1e-26; }

// Sums over the points between the origin and a node (negative to its left), and
// the value of the cheapest path to the node.
template <class Real>
struct Node {
  Real s0;  // Weights.
  Real s1;  // Weights times points.
  Real s2;  // Weights times squared points.
  Real f;
};

// Cost of the link (j, i) from its two nodes.
template <class Real>
inline Real LinkCost(const Node<Real>& a, const Node<Real>& b) {
  const Real s1 = b.s1 - a.s1;
  const Real cost = (b.s2 - a.s2) - s1 * s1 / (b.s0 - a.s0);
  return cost < Real(0) ? Real(0) : cost;
}

// Whether link ends beyond `s` are better served by one candidate than another.
// The candidate that enters is `i`, the one that it competes with is `t`.
template <class Real>
class Duel {
 public:
  Duel(const Node<Real>& i, const Node<Real>& t)
      : i0_(i.s0), i1_(i.s1), t0_(t.s0), t1_(t.s1), lead_((i.f - t.f) - (i.s2 - t.s2)) {}

  bool EntrantWins(const Node<Real>& s) const {
    const Real a = s.s1 - i1_;
    const Real b = s.s1 - t1_;
    const Real wi = s.s0 - i0_;
    const Real wt = s.s0 - t0_;
    // lead < a^2 / wi - b^2 / wt, without the divisions.
    return lead_ * (wi * wt) < a * a * wt - b * b * wi;
  }

 private:
  Real i0_;
  Real i1_;
  Real t0_;
  Real t1_;
  Real lead_;
};

// A path as its nodes, from 0 to the last one, and its cost without prices.
template <class Real>
struct Path {
  std::vector<uint32_t> nodes;
  size_t links = 0;
  Real cost{};
};

// Link pricing over one array of nodes, in one precision.
template <class Real>
class PathFinder {
 public:
  std::vector<Node<Real>> nodes;  // Filled by the owner; U + 1 of them.
  // Whether a link between adjacent nodes holds one point and so costs nothing.
  bool unit_links_free = true;

  const Path<Real>& path() const { return path_; }
  Real bound() const { return bound_; }
  Real price() const { return price_; }
  int passes() const { return passes_; }

  Real Cost(size_t j, size_t i) const {
    if (unit_links_free && i - j == 1) return Real(0);
    return LinkCost(nodes[j], nodes[i]);
  }

  // Finds the cheapest path with k links, 1 < k < nodes - 1, trying `price`
  // first. False if max_passes prices did not suffice; price() is then a close
  // one.
  bool Search(size_t k, Real price, int max_passes);

 private:
  void FindPath(Real price);
  void Splice(size_t k);
  void ShiftBound(size_t k) {
    const Real links = Real(static_cast<double>(path_.links)) - Real(static_cast<double>(k));
    const Real bound = path_.cost + price_ * links;
    if (bound_ < bound) bound_ = bound;
  }

  Path<Real> path_;  // Of the last price.
  Path<Real> few_;   // Cheapest with fewer than k links, closest to k so far.
  Path<Real> many_;  // Likewise with more.
  Real price_{};
  Real bound_{};
  int passes_ = 0;
  std::vector<uint32_t> previous_;
  // Candidates and the first link end that each serves best.
  struct Entry {
    uint32_t node;
    uint32_t from;
  };
  std::vector<Entry> queue_;
};

template <class Real>
void PathFinder<Real>::FindPath(Real price) {
  const uint32_t last = static_cast<uint32_t>(nodes.size() - 1);
  if (previous_.size() < nodes.size()) {
    previous_.resize(nodes.size());
    queue_.resize(nodes.size());
  }
  Node<Real>* const node = nodes.data();
  uint32_t* const previous = previous_.data();
  Entry* const queue = queue_.data();
  const uint32_t free_length = unit_links_free ? 1 : 0;

  node[0].f = Real(0);
  queue[0] = {0, 1};
  size_t head = 0;
  size_t back = 0;  // Last entry; the queue is never empty here.
  uint32_t step = 1;
  for (uint32_t i = 1;; ++i) {
    while (head < back && queue[head + 1].from <= i) ++head;
    const uint32_t j = queue[head].node;
    Real cost = LinkCost(node[j], node[i]);
    if (i - j == free_length) cost = Real(0);
    node[i].f = node[j].f + (cost + price);
    previous[i] = j;
    if (i == last) break;

    // From `limit` on, node i is known to be best.
    uint32_t limit = last + 1;
    for (;;) {
      const Entry t = queue[back];
      const Duel<Real> duel(node[i], node[t.node]);
      uint32_t lo = std::max(t.from, i + 1);
      if (duel.EntrantWins(node[lo])) {
        limit = lo;
        if (back > head) {
          --back;
          continue;
        }
        queue[head] = {i, i + 1};
        break;
      }
      // t wins at lo, i at hi; hi may be one past the last node.
      uint32_t hi = limit;
      if (hi - lo > 1) {
        uint32_t probe = std::min(lo + step, hi - 1);
        uint32_t stride = 1;
        if (duel.EntrantWins(node[probe])) {
          hi = probe;
          while (hi - lo > stride) {
            probe = hi - stride;
            if (!duel.EntrantWins(node[probe])) {
              lo = probe;
              break;
            }
            hi = probe;
            stride *= 2;
          }
        } else {
          lo = probe;
          while (hi - lo > stride) {
            probe = lo + stride;
            if (duel.EntrantWins(node[probe])) {
              hi = probe;
              break;
            }
            lo = probe;
            stride *= 2;
          }
        }
        while (hi - lo > 1) {
          const uint32_t middle = lo + (hi - lo) / 2;
          if (duel.EntrantWins(node[middle])) {
            hi = middle;
          } else {
            lo = middle;
          }
        }
      }
      if (hi <= last) {
        step = hi > t.from ? hi - t.from : 1;
        queue[++back] = {i, hi};
      }
      break;
    }
  }

  size_t links = 0;
  for (uint32_t i = last; i > 0; i = previous[i]) ++links;
  path_.links = links;
  path_.nodes.resize(links + 1);
  path_.cost = Real(0);
  uint32_t i = last;
  for (size_t c = links; c > 0; --c) {
    path_.nodes[c] = i;
    const uint32_t j = previous[i];
    path_.cost = path_.cost + Cost(j, i);
    i = j;
  }
  path_.nodes[0] = 0;
  price_ = price;
  ++passes_;
}

template <class Real>
bool PathFinder<Real>::Search(size_t k, Real price, int max_passes) {
  const size_t last = nodes.size() - 1;
  const double inverse_k = 1 / static_cast<double>(k);
  // The three paths are swapped about: room for any of them in each.
  for (Path<Real>* path : {&path_, &few_, &many_}) {
    path->nodes.reserve(nodes.capacity());
  }
  // Two points of the convex curve are known from the start.
  few_.links = 1;
  few_.cost = Cost(0, last);
  few_.nodes.assign({0, static_cast<uint32_t>(last)});
  many_.links = last;
  many_.cost = Real(0);
  many_.nodes.clear();  // Written out by Splice() if needed.
  if (!unit_links_free) {
    for (size_t i = 0; i < last; ++i) many_.cost = many_.cost + Cost(i, i + 1);
  }
  double few_price = 0;  // 0: not from a price tried.
  double many_price = 0;
  bound_ = Real(0);
  passes_ = 0;
  bool on_chord = false;
  int interpolations = 0;
  for (;;) {
    FindPath(price);
    ShiftBound(k);
    if (path_.links == k) return true;
    if (passes_ >= max_passes) return false;

    const bool between = few_.links < path_.links && path_.links < many_.links;
    if (on_chord) {
      const Real chord = few_.cost + price * Real(static_cast<double>(few_.links));
      const Real value = path_.cost + price * Real(static_cast<double>(path_.links));
      const Real floor = chord - chord * Real(TieTolerance(chord));
      if (!between || floor < value) {
        Splice(k);
        return path_.links == k;
      }
    }
    if (path_.links < k) {
      few_price = static_cast<double>(price);
      if (between) std::swap(few_, path_);
    } else {
      many_price = static_cast<double>(price);
      if (between) std::swap(many_, path_);
    }

    // Next price: from the cubic law through the last one, or through both ends
    // of the bracket; or the chord, if that did not help, if it is exact, or if
    // the bracket is no bracket any more.
    on_chord = true;
    if (between && ++interpolations <= kMaxInterpolations && many_.links - few_.links > 2) {
      double next = 0;
      if (few_price > 0 && many_price > 0) {
        const double few = std::log(static_cast<double>(few_.links));
        const double many = std::log(static_cast<double>(many_.links));
        const double share = (std::log(static_cast<double>(k)) - few) / (many - few);
        next = few_price * std::pow(many_price / few_price, share);
        on_chord = !(many_price < next && next < few_price);
      } else {
        const size_t links = few_price > 0 ? few_.links : many_.links;
        const double ratio = static_cast<double>(links) * inverse_k;
        next = static_cast<double>(price) * ratio * ratio * ratio;
        on_chord = !(next > 0 && std::isfinite(next));
      }
      if (!on_chord) price = Real(next);
    }
    if (on_chord) {
      price = (few_.cost - many_.cost) / Real(static_cast<double>(many_.links - few_.links));
    }
  }
}

// Replaces path_ by one with k links made of a head of many_ and a tail of few_.
template <class Real>
void PathFinder<Real>::Splice(size_t k) {
  if (many_.nodes.empty()) {
    many_.nodes.resize(many_.links + 1);
    for (size_t i = 0; i < many_.nodes.size(); ++i) {
      many_.nodes[i] = static_cast<uint32_t>(i);
    }
  }
  const std::vector<uint32_t>& few = few_.nodes;
  const std::vector<uint32_t>& many = many_.nodes;
  // s links of many_, one new link, then few_ from its node t + 1 on.
  for (size_t t = 0; t < few_.links; ++t) {
    const size_t s = t + k - few_.links;
    if (s >= many_.links) break;
    if (few[t] > many[s] || many[s + 1] > few[t + 1]) continue;
    path_.nodes.assign(many.begin(), many.begin() + static_cast<ptrdiff_t>(s + 1));
    path_.nodes.insert(path_.nodes.end(), few.begin() + static_cast<ptrdiff_t>(t + 1), few.end());
    path_.links = k;
    path_.cost = Real(0);
    for (size_t c = 0; c < k; ++c) {
      path_.cost = path_.cost + Cost(path_.nodes[c], path_.nodes[c + 1]);
    }
    return;
  }
}

struct Moments {
  double s0 = 0;
  double s1 = 0;
  double s2 = 0;
};

}  // namespace

class KMeans1d::Impl {
 public:
  const Clustering& Solve(std::span<const double> points, std::span<const double> weights, int k);
  const Clustering& SolveByDynamicProgram(std::span<const double> points,
                                          std::span<const double> weights, int k);

 private:
  // Takes the data; true if the answer is trivial and already in result_.
  bool Begin(std::span<const double> points, std::span<const double> weights, int k);
  void FillNodes();
  void FillPreciseNodes();
  double GuessPrice();
  template <class Real>
  Real BestSplit(const PathFinder<Real>& finder);
  bool SolvePrecisely(double price);
  void RunDynamicProgram();
  // Centroids and SSE of result_.starts.
  void Measure();
  void SetBound(double bound) { result_.lower_bound = std::clamp(bound, 0.0, result_.sse); }
  double Gap() const { return result_.sse - result_.lower_bound; }
  double EstimatedError(double price) const;
  template <class Real>
  void TakePath(const PathFinder<Real>& finder) {
    result_.starts.assign(finder.path().nodes.begin(), finder.path().nodes.end());
    Measure();
    SetBound(static_cast<double>(finder.bound()));
  }

  std::span<const double> points_;
  std::span<const double> weights_;
  size_t size_ = 0;            // Points.
  size_t k_ = 0;               // Clusters, at most size_.
  size_t origin_ = 0;          // Node at which the sums are 0.
  double shift_ = 0;           // Point that the sums take for 0.
  bool whole_weights_ = true;  // Sums of weights are exact.
  Clustering result_;
  PathFinder<double> fine_;
  PathFinder<double> coarse_;
  PathFinder<DoubleDouble> precise_;
  std::vector<double> pieces_;
  // For the dynamic program.
  std::vector<uint32_t> choice_;
  std::vector<DoubleDouble> row_;
  std::vector<DoubleDouble> next_row_;
};

bool KMeans1d::Impl::Begin(std::span<const double> points, std::span<const double> weights, int k) {
  assert(points.size() == weights.size());
  assert(points.size() < std::numeric_limits<uint32_t>::max());
  assert(k >= 1);
  points_ = points;
  weights_ = weights;
  size_ = points.size();
  k_ = std::min(static_cast<size_t>(k), size_);
  result_.passes = 0;
  if (k_ == size_) {
    result_.starts.resize(size_ + 1);
    for (size_t i = 0; i <= size_; ++i) {
      result_.starts[i] = static_cast<uint32_t>(i);
    }
    result_.centroids.assign(points.begin(), points.end());
    result_.sse = 0;
    result_.lower_bound = 0;
    return true;
  }
  if (k_ == 1) {
    result_.starts.assign({0, static_cast<uint32_t>(size_)});
    Measure();
    SetBound(result_.sse);
    return true;
  }
  if (points.front() > 0) {
    origin_ = 0;
    shift_ = points.front();
  } else if (points.back() < 0) {
    origin_ = size_;
    shift_ = points.back();
  } else {
    origin_ =
        static_cast<size_t>(std::lower_bound(points.begin(), points.end(), 0.0) - points.begin());
    shift_ = 0;
  }
  return false;
}

void KMeans1d::Impl::FillNodes() {
  fine_.nodes.resize(size_ + 1);
  Node<double>* const nodes = fine_.nodes.data();
  const double* const points = points_.data();
  const double* const weights = weights_.data();
  const double shift = shift_;
  nodes[origin_] = {0, 0, 0, 0};
  // Sums over whole blocks, as sum and error.
  const auto fold = [](double value, double& high, double& low) {
    const DoubleDouble s = TwoSum(high, value);
    high = s.hi;
    low += s.lo;
  };
  bool whole = true;
  for (const bool right : {true, false}) {
    const size_t count = right ? size_ - origin_ : origin_;
    Moments high;
    Moments low;
    for (size_t begin = 0; begin < count; begin += kSumBlock) {
      const size_t end = std::min(count, begin + kSumBlock);
      Moments sum;
      for (size_t n = begin; n < end; ++n) {
        const size_t p = right ? origin_ + n : origin_ - 1 - n;
        const double x = points[p] - shift;
        const double w = right ? weights[p] : -weights[p];
        sum.s0 += w;
        sum.s1 += w * x;
        sum.s2 += w * x * x;
        Node<double>& node = nodes[right ? p + 1 : p];
        node.s0 = high.s0 + (low.s0 + sum.s0);
        node.s1 = high.s1 + (low.s1 + sum.s1);
        node.s2 = high.s2 + (low.s2 + sum.s2);
      }
      fold(sum.s0, high.s0, low.s0);
      fold(sum.s1, high.s1, low.s1);
      fold(sum.s2, high.s2, low.s2);
    }
    whole = whole && std::abs(high.s0) < 0x1p53;
  }
  // Their sum fits 53 bits by now, so each of them fits 64.
  for (size_t i = 0; whole && i < size_; ++i) {
    whole = weights[i] == static_cast<double>(static_cast<int64_t>(weights[i]));
  }
  whole_weights_ = whole;
}

void KMeans1d::Impl::FillPreciseNodes() {
  precise_.nodes.resize(size_ + 1);
  std::vector<Node<DoubleDouble>>& nodes = precise_.nodes;
  nodes[origin_] = Node<DoubleDouble>{};
  const auto fill = [&](size_t p, size_t from, size_t to, double w) {
    const DoubleDouble x = TwoSum(points_[p], -shift_);
    const DoubleDouble weight(w);
    const DoubleDouble wx = weight * x;
    nodes[to].s0 = nodes[from].s0 + weight;
    nodes[to].s1 = nodes[from].s1 + wx;
    nodes[to].s2 = nodes[from].s2 + wx * x;
  };
  for (size_t p = origin_; p < size_; ++p) fill(p, p, p + 1, weights_[p]);
  for (size_t p = origin_; p > 0; --p) fill(p - 1, p, p - 1, -weights_[p - 1]);
}

// A price that should yield about k_ links.
double KMeans1d::Impl::GuessPrice() {
  size_t cells = std::max(kMinCells, kCellsPerCluster * k_);
  if (size_ >= kRichShrink * cells) cells *= 2;
  const size_t piece = std::max<size_t>(1, size_ / (cells * kPiecesPerCell));
  const std::vector<Node<double>>& nodes = fine_.nodes;
  // Running integral of density^(1/3) over pieces of `piece` points.
  pieces_.clear();
  pieces_.push_back(0);
  for (size_t begin = 0; begin < size_; begin += piece) {
    const size_t end = std::min(size_, begin + piece);
    // Each point stands for half of the way to its neighbours.
    const double left = begin > 0 ? points_[begin - 1] + points_[begin] : 2 * points_[begin];
    const double right = end < size_ ? points_[end - 1] + points_[end] : 2 * points_[end - 1];
    const double width = (right - left) / 2;
    const double weight = nodes[end].s0 - nodes[begin].s0;
    pieces_.push_back(pieces_.back() + std::cbrt(weight * width * width));
  }
  const double k = static_cast<double>(k_);
  const double share = pieces_.back() / k;
  double price = share * share * share / 6;
  if (size_ < kMinShrink * cells) return price;

  coarse_.unit_links_free = false;
  coarse_.nodes.clear();
  coarse_.nodes.push_back(nodes.front());
  const double cell = pieces_.back() / static_cast<double>(cells);
  double wanted = cell;
  for (size_t n = 1; n + 1 < pieces_.size(); ++n) {
    if (pieces_[n] < wanted) continue;
    coarse_.nodes.push_back(nodes[n * piece]);
    wanted = std::max(wanted + cell, pieces_[n] + cell / 2);
  }
  coarse_.nodes.push_back(nodes.back());
  if (coarse_.nodes.size() < k_ + 3) return price;
  coarse_.Search(k_, price, kMaxCoarsePasses);
  return coarse_.price();
}

// Best start of a second and last cluster; stores it and returns the cost.
template <class Real>
Real KMeans1d::Impl::BestSplit(const PathFinder<Real>& finder) {
  size_t best = 1;
  Real least = finder.Cost(0, 1) + finder.Cost(1, size_);
  for (size_t i = 2; i < size_; ++i) {
    const Real cost = finder.Cost(0, i) + finder.Cost(i, size_);
    if (cost < least) {
      least = cost;
      best = i;
    }
  }
  result_.starts.assign({0, static_cast<uint32_t>(best), static_cast<uint32_t>(size_)});
  return least;
}

void KMeans1d::Impl::Measure() {
  const size_t clusters = result_.starts.size() - 1;
  result_.centroids.resize(clusters);
  double total = 0;
  for (size_t c = 0; c < clusters; ++c) {
    const size_t begin = result_.starts[c];
    const size_t end = result_.starts[c + 1];
    const double base = points_[begin];
    if (end - begin == 1) {
      result_.centroids[c] = base;
      continue;
    }
    double w0 = 0, w1 = 0, d0 = 0, d1 = 0;
    size_t i = begin;
    for (; i + 2 <= end; i += 2) {
      w0 += weights_[i];
      w1 += weights_[i + 1];
      d0 += weights_[i] * (points_[i] - base);
      d1 += weights_[i + 1] * (points_[i + 1] - base);
    }
    if (i < end) {
      w0 += weights_[i];
      d0 += weights_[i] * (points_[i] - base);
    }
    const double offset = (d0 + d1) / (w0 + w1);
    double e0 = 0, e1 = 0;
    for (i = begin; i + 2 <= end; i += 2) {
      const double x0 = (points_[i] - base) - offset;
      const double x1 = (points_[i + 1] - base) - offset;
      e0 += weights_[i] * x0 * x0;
      e1 += weights_[i + 1] * x1 * x1;
    }
    if (i < end) {
      const double x0 = (points_[i] - base) - offset;
      e0 += weights_[i] * x0 * x0;
    }
    result_.centroids[c] = base + offset;
    total += e0 + e1;
  }
  result_.sse = total;
}

// What rounding in the sums may have done to the values of the paths that
// matter. Errors of s2 cancel between neighbours; those of s1 and s0 are
// multiplied by the differences of means and of squared means, which add up to
// the range. An outermost point ends the range, and does not count, if sharing a
// cluster with its neighbour alone would cost more than all of result_: then it
// is single, hence exact, in every optimal clustering.
double KMeans1d::Impl::EstimatedError(double price) const {
  const std::vector<uint32_t>& starts = result_.starts;
  const auto pair_exceeds_sse = [this](size_t p) {
    const double distance = points_[p + 1] - points_[p];
    const double weight = weights_[p] / (weights_[p] + weights_[p + 1]) * weights_[p + 1];
    return weight * distance * distance > 1.001 * result_.sse;
  };
  size_t first = 0;
  size_t last = starts.size() - 1;
  while (first < last && starts[first + 1] - starts[first] == 1 &&
         pair_exceeds_sse(starts[first])) {
    ++first;
  }
  while (first < last && starts[last] - starts[last - 1] == 1 &&
         pair_exceeds_sse(starts[last] - 2)) {
    --last;
  }
  if (first == last) return 0;
  double error = 0;
  for (const size_t end : {first, last}) {
    const Node<double>& node = fine_.nodes[starts[end]];
    const size_t p = end == first ? starts[end] : starts[end] - 1;
    const double x = std::abs(points_[p] - shift_);
    error += 4 * std::abs(node.s2) + 2 * std::abs(node.s1) * x;
    if (!whole_weights_) error += std::abs(node.s0) * x * x;
  }
  // Path values, prices included, are rounded once per link.
  const double links = static_cast<double>(starts.size());
  const double rounded = result_.sse + links * price;
  return kEpsilon * (error + std::sqrt(links) * rounded);
}

bool KMeans1d::Impl::SolvePrecisely(double price) {
  FillPreciseNodes();
  if (k_ == 2) {
    const DoubleDouble cost = BestSplit(precise_);
    Measure();
    SetBound(static_cast<double>(cost));
    return true;
  }
  const bool found = precise_.Search(k_, DoubleDouble(price), kMaxPasses);
  result_.passes += precise_.passes();
  if (!found) return false;
  TakePath(precise_);
  return true;
}

const Clustering& KMeans1d::Impl::Solve(std::span<const double> points,
                                        std::span<const double> weights, int k) {
  if (Begin(points, weights, k)) return result_;
  FillNodes();
  bool found = true;
  double price = 0;
  if (k_ == 2) {
    const double cost = BestSplit(fine_);
    Measure();
    SetBound(cost);
  } else {
    found = fine_.Search(k_, GuessPrice(), kMaxPasses);
    result_.passes = fine_.passes();
    price = fine_.price();
    if (found) TakePath(fine_);
  }
  const double accepted = kAcceptedError * result_.sse;
  if (found && EstimatedError(price) <= accepted && Gap() <= accepted) {
    return result_;
  }
  if (!SolvePrecisely(price)) RunDynamicProgram();
  return result_;
}

// Rows of the table by divide and conquer over the monotone choices. Needs
// precise_.nodes.
void KMeans1d::Impl::RunDynamicProgram() {
  const size_t width = size_ + 1;
  choice_.assign(k_ * width, 0);
  row_.assign(width, DoubleDouble(0));
  next_row_.assign(width, DoubleDouble(0));
  for (size_t i = 1; i < width; ++i) row_[i] = precise_.Cost(0, i);
  struct Task {
    size_t first, last;  // Nodes to decide.
    size_t low, high;    // Where their choices lie.
  };
  std::vector<Task> tasks;
  for (size_t links = 2; links <= k_; ++links) {
    uint32_t* const choice = choice_.data() + (links - 1) * width;
    tasks.push_back({links, size_, links - 1, size_ - 1});
    while (!tasks.empty()) {
      const Task task = tasks.back();
      tasks.pop_back();
      const size_t middle = task.first + (task.last - task.first) / 2;
      const size_t high = std::min(task.high, middle - 1);
      size_t best = task.low;
      DoubleDouble least = row_[best] + precise_.Cost(best, middle);
      for (size_t j = best + 1; j <= high; ++j) {
        const DoubleDouble cost = row_[j] + precise_.Cost(j, middle);
        if (cost < least) {
          least = cost;
          best = j;
        }
      }
      next_row_[middle] = least;
      choice[middle] = static_cast<uint32_t>(best);
      if (task.first < middle) {
        tasks.push_back({task.first, middle - 1, task.low, best});
      }
      if (middle < task.last) {
        tasks.push_back({middle + 1, task.last, best, task.high});
      }
    }
    std::swap(row_, next_row_);
  }
  result_.starts.resize(k_ + 1);
  size_t node = size_;
  for (size_t c = k_; c > 0; --c) {
    result_.starts[c] = static_cast<uint32_t>(node);
    node = choice_[(c - 1) * width + node];
  }
  result_.starts[0] = 0;
  Measure();
  SetBound(static_cast<double>(row_[size_]));
}

const Clustering& KMeans1d::Impl::SolveByDynamicProgram(std::span<const double> points,
                                                        std::span<const double> weights, int k) {
  if (Begin(points, weights, k)) return result_;
  FillPreciseNodes();
  RunDynamicProgram();
  return result_;
}

KMeans1d::KMeans1d() : impl_(std::make_unique<Impl>()) {}
KMeans1d::~KMeans1d() = default;
KMeans1d::KMeans1d(KMeans1d&&) noexcept = default;
KMeans1d& KMeans1d::operator=(KMeans1d&&) noexcept = default;

const Clustering& KMeans1d::Solve(std::span<const double> points, std::span<const double> weights,
                                  int k) {
  return impl_->Solve(points, weights, k);
}

const Clustering& KMeans1d::SolveByDynamicProgram(std::span<const double> points,
                                                  std::span<const double> weights, int k) {
  return impl_->SolveByDynamicProgram(points, weights, k);
}

}  // namespace cmlc::numeric

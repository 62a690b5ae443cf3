/* The operations on one image [H, W, C] or one row, for the files that c_out writes. */

/* y[p,q,k] = b[k] + sum over r, s, c of x[p*sh + r*dh - top, q*sw + s*dw - left, c] * w[r,s,c,k];
   four columns q and sixteen filters k at a time, whose sums stay in registers */
static void conv2d(const float *restrict x, float *restrict y, const float *restrict w,
                   const float *restrict b, int H, int W, int C, int P, int Q, int K, int R, int S,
                   int sh, int sw, int top, int left, int dh, int dw, int G)
{
    const int inputs = C / G, filters = K / G, depthwise = inputs == 1 && filters == 1;
    for (int p = 0; p < P; p++)
        for (int q = 0; q < Q; q += 4)
            for (int k = 0, n; k < K; k += n) {
                const int group = k / filters, rest = depthwise ? K - k : (group + 1) * filters - k;
                n = rest < 16 ? rest : 16;
                float sum[4][16];
                for (int j = 0; j < 4; j++)
                    for (int i = 0; i < 16; i++)
                        sum[j][i] = i < n ? b[k + i] : 0.0f;
                for (int r = 0; r < R; r++)
                    for (int s = 0; s < S; s++) {
                        const int h = p * sh + r * dh - top;
                        if (h < 0 || h >= H)
                            continue;
                        const float *tap = w + (r * S + s) * inputs * K + k, *in[4];
                        float inside[4];
                        for (int j = 0; j < 4; j++) {
                            const int v = (q + j) * sw + s * dw - left;
                            inside[j] = v >= 0 && v < W && q + j < Q;
                            in[j] = x + (h * W + (inside[j] > 0.0f ? v : 0)) * C
                                    + (depthwise ? k : group * inputs);
                        }
                        if (depthwise)
                            for (int j = 0; j < 4; j++)
                                for (int i = 0; i < n; i++)
                                    sum[j][i] += inside[j] * in[j][i] * tap[i];
                        else if (n == 16)
                            for (int c = 0; c < inputs; c++) {
                                const float x0 = inside[0] * in[0][c], x1 = inside[1] * in[1][c];
                                const float x2 = inside[2] * in[2][c], x3 = inside[3] * in[3][c];
                                for (int i = 0; i < 16; i++) {
                                    const float t = tap[c * K + i];
                                    sum[0][i] += x0 * t;
                                    sum[1][i] += x1 * t;
                                    sum[2][i] += x2 * t;
                                    sum[3][i] += x3 * t;
                                }
                            }
                        else
                            for (int c = 0; c < inputs; c++)
                                for (int j = 0; j < 4; j++)
                                    for (int i = 0; i < n; i++)
                                        sum[j][i] += inside[j] * in[j][c] * tap[c * K + i];
                    }
                for (int j = 0; j < 4 && q + j < Q; j++)
                    for (int i = 0; i < n; i++)
                        y[(p * Q + q + j) * K + k + i] = sum[j][i];
            }
}

static void dense(const float *restrict x, float *restrict y, const float *restrict w,
                  const float *restrict b, int inputs, int outputs)
{
    for (int o = 0; o < outputs; o++)
        y[o] = b[o];
    for (int i = 0; i < inputs; i++)
        for (int o = 0; o < outputs; o++)
            y[o] += x[i] * w[i * outputs + o];
}

static void max_pool2d(const float *x, float *y, int H, int W, int C, int P, int Q, int R, int S,
                       int sh, int sw, int top, int left, int dh, int dw)
{
    for (int p = 0; p < P; p++)
        for (int q = 0; q < Q; q++)
            for (int c = 0; c < C; c++) {
                float most = -INFINITY;
                for (int r = 0; r < R; r++)
                    for (int s = 0; s < S; s++) {
                        const int h = p * sh + r * dh - top, v = q * sw + s * dw - left;
                        if (h >= 0 && h < H && v >= 0 && v < W && x[(h * W + v) * C + c] > most)
                            most = x[(h * W + v) * C + c];
                    }
                y[(p * Q + q) * C + c] = most;
            }
}

/* Zeros count as far as before and after (in rows), and first and last (in columns), say. */
static void avg_pool2d(const float *x, float *y, int H, int W, int C, int P, int Q, int R, int S,
                       int sh, int sw, int top, int left, int before, int first, int after,
                       int last)
{
    for (int p = 0; p < P; p++)
        for (int q = 0; q < Q; q++)
            for (int c = 0; c < C; c++) {
                float sum = 0.0f;
                int count = 0;
                for (int r = 0; r < R; r++)
                    for (int s = 0; s < S; s++) {
                        const int h = p * sh + r - top, v = q * sw + s - left;
                        if (h >= -before && h < H + after && v >= -first && v < W + last)
                            count++;
                        if (h >= 0 && h < H && v >= 0 && v < W)
                            sum += x[(h * W + v) * C + c];
                    }
                y[(p * Q + q) * C + c] = sum / (float)count;
            }
}

static void copy(const float *x, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i];
}

static void add(const float *x, const float *x2, float *y, int n)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] + x2[i];
}

static void concat(const float *x, const float *x2, float *y, int pixels, int C, int C2)
{
    for (int i = 0; i < pixels; i++) {
        for (int c = 0; c < C; c++)
            y[i * (C + C2) + c] = x[i * C + c];
        for (int c = 0; c < C2; c++)
            y[i * (C + C2) + C + c] = x2[i * C2 + c];
    }
}

/* x2 has n2 numbers: as many as x, or one a channel */
static void multiply(const float *x, const float *x2, float *y, int n, int n2)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] * x2[i % n2];
}

static void scale_shift(const float *x, float *y, const float *w, const float *b,
                        const float *mean, const float *variance, int n, int C, float eps)
{
    for (int i = 0; i < n; i++)
        y[i] = (x[i] - mean[i % C]) / sqrtf(variance[i % C] + eps) * w[i % C] + b[i % C];
}

/* weights: one a channel (C of them), or one a number */
static void group_norm(const float *x, float *y, const float *w, const float *b, int n, int C,
                       int G, int weights, float eps)
{
    const int each = C / G;
    for (int g = 0; g < G; g++) {
        double mean = 0.0, square = 0.0;
        for (int i = 0; i < n; i++)
            if (i % C / each == g)
                mean += x[i];
        mean /= n / G;
        for (int i = 0; i < n; i++)
            if (i % C / each == g)
                square += (x[i] - mean) * (x[i] - mean);
        const double factor = 1.0 / sqrt(square / (n / G) + eps);
        for (int i = 0; i < n; i++)
            if (i % C / each == g)
                y[i] = (float)((x[i] - mean) * factor) * w[i % weights] + b[i % weights];
    }
}

static void prelu(const float *x, float *y, const float *w, int n, int C)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] < 0.0f ? x[i] * w[i % C] : x[i];
}

static void softmax(const float *x, float *y, int n)
{
    float most = x[0], sum = 0.0f;
    for (int i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (int i = 0; i < n; i++)
        sum += y[i] = expf(x[i] - most);
    for (int i = 0; i < n; i++)
        y[i] /= sum;
}

static float relu(float x) { return x < 0.0f ? 0.0f : x; }

static float relu6(float x) { return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x; }

static float leaky_relu(float x, float a) { return x < 0.0f ? x * a : x; }

static float elu(float x, float a) { return x < 0.0f ? a * expm1f(x) : x; }

static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

static float hard_sigmoid(float x) { return relu6(x + 3.0f) / 6.0f; }

static float hyperbolic(float x) { return tanhf(x); }

static float silu(float x) { return x * sigmoid(x); }

static float hard_swish(float x) { return x * hard_sigmoid(x); }

static float softplus(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }

static float mish(float x) { return x * tanhf(softplus(x)); }

static float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

static float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

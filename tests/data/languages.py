"""What a model might think, in several languages, line by line the same."""

# ruff: noqa: RUF001

from __future__ import annotations

THINKING = {
    "en": [
        "Let me think about this again.",
        "So we have 3 apples and 5 pears, which makes 8 in total.",
        "Therefore $x^2 + 3x$ must be even, since n = 2k.",
        "Hmm, let's check the second case: `print(sum(range(10)))`.",
    ],
    "de": [
        "Lass mich noch einmal darüber nachdenken.",
        "Also haben wir 3 Äpfel und 5 Birnen, das sind zusammen 8.",
        "Daher muss $x^2 + 3x$ gerade sein, denn n = 2k.",
        "Prüfen wir nun den zweiten Fall: `print(sum(range(10)))`.",
    ],
    "es": [
        "Déjame pensarlo otra vez.",
        "Entonces tenemos 3 manzanas y 5 peras, que suman 8.",
        "Por lo tanto $x^2 + 3x$ debe ser par, porque n = 2k.",
        "Veamos el segundo caso: `print(sum(range(10)))`.",
    ],
    "fr": [
        "Réfléchissons encore une fois.",
        "Nous avons donc 3 pommes et 5 poires, soit 8 au total.",
        "Donc $x^2 + 3x$ est forcément pair, car n = 2k.",
        "Voyons maintenant le deuxième cas : `print(sum(range(10)))`.",
    ],
    "zh": [
        "让我再想一想。",
        "所以我们有3个苹果和5个梨，一共8个。",
        "因此 $x^2 + 3x$ 一定是偶数，因为 n = 2k。",
        "现在看第二种情况：`print(sum(range(10)))`。",
    ],
    "ja": [
        "もう一度考えてみましょう。",
        "りんごが3個と梨が5個あるので、合計8個です。",
        "したがって $x^2 + 3x$ は偶数です、n = 2k だから。",
        "次に二番目の場合を調べます：`print(sum(range(10)))`。",
    ],
    "ru": [
        "Давайте подумаем об этом ещё раз.",
        "Значит, у нас есть 3 яблока и 5 груш, всего 8.",
        "Следовательно, $x^2 + 3x$ должно быть чётным, так как n = 2k.",
        "Теперь рассмотрим второй случай: `print(sum(range(10)))`.",
    ],
    "ar": [
        "دعني أفكر في هذا مرة أخرى.",
        "إذن لدينا 3 تفاحات و 5 كمثرى، أي 8 في المجموع.",
        "لذلك يجب أن يكون $x^2 + 3x$ زوجيا لأن n = 2k.",
        "لننظر الآن في الحالة الثانية: `print(sum(range(10)))`.",
    ],
    "ko": [
        "이것을 다시 한번 천천히 생각해 봅시다.",
        "사과가 3개, 배가 5개이므로 모두 8개입니다.",
        "따라서 $x^2 + 3x$ 는 짝수여야 합니다, n = 2k 이므로.",
        "이제 두 번째 경우를 살펴봅시다: `print(sum(range(10)))`.",
    ],
}

"""Forty short texts of many kinds and languages: what a model is calibrated on where no texts are given.

They stand for the shapes that text comes in (prose, questions, lists, tables, logs, code) and for the scripts that a
tokenizer cuts differently, so that channels that only some input makes large are seen.
"""

from __future__ import annotations

SAMPLE_TEXTS: tuple[str, ...] = (
    "The river had risen during the night, and by morning the lower fields were under water. Nobody in the village was "
    "surprised. They had moved the sheep to the hill two days before, when the old women began to speak of the smell.",
    "How do I undo the last commit without losing my changes?",
    "Photosynthesis is the process by which plants, algae and some bacteria turn light, water and carbon dioxide into "
    "sugar and oxygen. In plants it takes place in the chloroplasts, where chlorophyll absorbs red and blue light.",
    "Dear Ms Okafor,\n\nthank you for your letter of 3 March. We have checked the invoice; you are right, the second "
    "item was charged twice. We have sent 48.20 back to your account.\n\nKind regards,\nThe accounts department",
    "# Installation\n\n1. Download the archive and unpack it.\n2. Run `make install PREFIX=/usr/local`.\n3. Restart "
    "the service.\n\n> **Note**: version 2.4 or later is needed, see [the changelog](CHANGELOG.md).\n",
    "warranty period laptop battery",
    "2024-11-03 08:14:22,917 ERROR [worker-7] connection to 10.0.3.18:5432 refused (attempt 3 of 5), retrying in 8.0 s",
    "| year | rainfall (mm) | days of frost |\n|------|---------------|---------------|\n| 2019 | 712 | 41 |\n"
    "| 2020 | 655 | 28 |\n| 2021 | 803 | 52 |",
    "The tenant shall give notice in writing no later than three months before the end of the term; otherwise this "
    "agreement is extended by twelve months under the same conditions (see section 4, paragraph 2).",
    "Let f be continuous on [a, b] and differentiable on (a, b). Then there is a c in (a, b) with "
    "f'(c) = (f(b) - f(a)) / (b - a).",
    "ok",
    "lol that's soooo cute 😂😂 where did u get it??? #catsofinstagram",
    "def moving_average(values, width):\n    total = sum(values[:width])\n    yield total / width\n"
    "    for old, new in zip(values, values[width:]):\n        total += new - old\n        yield total / width\n",
    'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Printf("%d: %d\\n", i, '
    "i*i)\n\t}\n}\n",
    "const byName = (people) => Object.fromEntries(people.map((p) => [p.name.toLowerCase(), p]));\n"
    "// throws if a name is missing\nexport function find(name) { return byName(load())[name] ?? fail(name); }",
    "impl<T: Ord> Heap<T> {\n    pub fn push(&mut self, item: T) {\n        self.items.push(item);\n"
    "        self.sift_up(self.items.len() - 1);\n    }\n}",
    "SELECT c.name, COUNT(*) AS orders FROM customers c JOIN orders o ON o.customer_id = c.id\n"
    "WHERE o.placed >= '2023-01-01' GROUP BY c.name HAVING COUNT(*) > 3 ORDER BY orders DESC;",
    '{"id": 8812, "tags": ["blue", "cotton"], "price": {"amount": 19.9, "currency": "EUR"}, "in_stock": true}',
    "find . -name '*.log' -mtime +30 -print0 | xargs -0 gzip -9",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Der Zug nach Leipzig fährt heute von Gleis sieben ab und hat etwa zwanzig Minuten Verspätung. Wir bitten um "
    "Entschuldigung; Anschlusszüge warten nicht.",
    "Le boulanger du coin ouvre à six heures, mais il n'y a plus de croissants après huit heures et demie. "
    "Les habitués le savent et viennent tôt.",
    "La biblioteca municipal presta libros durante tres semanas; si nadie los ha reservado, el plazo puede ampliarse "
    "dos veces por teléfono o en la página web.",
    "O café da manhã é servido entre as sete e as dez. Para quem sai mais cedo, preparamos um lanche na véspera.",
    "Il museo resta chiuso il lunedì. I biglietti comprati in rete valgono per tutta la giornata scelta.",
    "De brug gaat omhoog als er een schip komt; fietsers kunnen de tunnel nemen, die is altijd open.",
    "Pociąg do Krakowa odjeżdża z peronu trzeciego. Bilety można kupić u konduktora bez dodatkowej opłaty.",
    "Весной река разливается, и дорога к дальним домам на несколько недель уходит под воду. Почту возят на лодке.",
    "Yağmur durunca çocuklar sokağa çıktı; akşama kadar kimse onları eve çağırmadı.",
    "Το λεωφορείο για το λιμάνι περνά κάθε είκοσι λεπτά, εκτός από τις Κυριακές και τις αργίες.",
    "تفتح المكتبة أبوابها في الساعة التاسعة صباحا، ويمكن استعارة خمسة كتب لمدة أسبوعين.",
    "הרכבת האחרונה יוצאת בחצות. אחרי השעה הזאת אפשר לחזור רק במונית או ברגל.",
    "बारिश के बाद खेतों में पानी भर गया था, इसलिए बच्चे स्कूल पहुँचने के लिए लंबा रास्ता लेते थे।",
    "ตลาดเช้าเปิดตั้งแต่ตีห้า ชาวบ้านนำผักและปลาสดมาขายจนถึงเก้าโมง",
    "Chợ nổi họp từ lúc mặt trời chưa mọc; thuyền nào bán gì thì treo thứ ấy lên cây sào trước mũi.",
    "图书馆周一闭馆。其他日子从上午九点开到晚上八点,借书需要带上本人的证件。",
    "這家小店只賣三種麵,但是每天中午門口都排著很長的隊。",
    "駅から歩いて五分のところに古い喫茶店があります。朝はトーストとゆで卵が付いてきます。",
    "비가 그치자 사람들은 다시 시장으로 나왔고, 가게 주인들은 젖은 의자를 닦기 시작했다.",
    "Treni ya asubuhi huondoka saa kumi na mbili. Wanaochelewa husubiri basi hadi saa nne.",
)
